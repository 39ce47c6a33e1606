"""The tables of a sweep, printed and in sweep.csv, and its plot in sweep.png."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.job import lock
from trainer.job.files import write_bytes, write_text
from trainer.job.stdout import printable, show, table
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import SEED, Group, Result, groups, rank

TABLE, PLOT = "sweep.csv", "sweep.png"
_WIDEST = 60  # characters of an error in the printed table; sweep.csv has all of it


def show_results(folder: Path, warn: Callable[[str], object]) -> None:
    """Print the tables of a sweep, and write sweep.csv and sweep.png, or warn that it cannot."""
    show(tables(sweep_folder.results(folder)))
    try:
        with lock.turn(folder / sweep_folder.TURN):
            results, text = sweep_folder.results(folder), io.StringIO()
            header = ["rank", "member", *results[0].values, *Result._fields[2:]]
            writer = csv.DictWriter(text, header, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            for place, result in rank(results):
                row = {**result.values, **result._asdict(), "rank": place, "member": result.name}
                writer.writerow(row)
            write_text(folder / TABLE, text.getvalue())
            if by_values := groups(results):
                write_bytes(folder / PLOT, draw(by_values))
        show("\n".join(str(folder / name) for name in (TABLE, PLOT)[: 1 + bool(by_values)]))
    except OSError as error:
        warn(f"{folder} cannot be written ({error.strerror})")


def tables(results: Sequence[Result]) -> str:
    """Return the ranked table for people, and the one over the seeds if they are swept."""
    swept, by_values = list(results[0].values), groups(results)
    header = ["rank", *swept, "status", "test accuracy", "test loss", "steps", "images/s", "time"]
    rows = [[*header, ""]]
    for place, result in rank(results):
        row = [
            formatted(place, "{}"),
            *(printable(result.values.get(k, "-")) for k in swept),
            result.status,
        ]
        row += [formatted(result.test_accuracy, "{:.2%}"), formatted(result.test_loss, "{:.4f}")]
        row += [formatted(result.steps, "{:,}"), formatted(result.examples_per_second, "{:,.0f}")]
        error = printable(result.error or "")[:_WIDEST] if result.status == "failed" else ""
        rows.append([*row, formatted(result.seconds, "{:.1f} s"), error])
    lines = list(table(rows, {*range(1, len(swept) + 2), len(header)}))
    if by_values and SEED in swept:
        others = list(by_values[0].values)
        rows = [[*others, "seeds", "mean accuracy", "spread", "lowest", "highest"]]
        for group in by_values:
            figures = [group.mean, group.spread, group.lowest, group.highest]
            values = [printable(value) for value in group.values.values()]
            rows.append([*values, str(group.seeds), *(formatted(n, "{:.2%}") for n in figures)])
        lines += ["", *table(rows, range(len(others)))]
    return "\n".join(lines)


def draw(by_values: Sequence[Group]) -> bytes:
    """Return the plot as PNG: for each combination all seeds, their mean and their deviation."""
    # Not pyplot, whose backend may need a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, max(3.0, 1.0 + 0.35 * len(by_values))), dpi=120, layout="tight")
    axes = figure.add_subplot(xlabel="test accuracy, %")
    for row, group in enumerate(by_values):
        percent = [100 * accuracy for accuracy in group.accuracies]
        axes.plot(percent, [row] * len(percent), ".", color="C0", alpha=0.5)
        spread = 100 * (group.spread or 0.0)
        axes.errorbar(100 * group.mean, row, xerr=spread, fmt="o", color="C0", capsize=3)
    labels = [", ".join(f"{k}={v}" for k, v in group.values.items()) for group in by_values]
    axes.set_yticks(range(len(by_values)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", backend="agg")
    return png.getvalue()


def formatted(value: float | None, form: str) -> str:
    """Return a number in a format; a dash for None."""
    return "-" if value is None else form.format(value)
