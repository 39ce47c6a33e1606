"""The tables of a sweep, printed and in sweep.csv, and its plot in sweep.png."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.job import lock
from trainer.job.files import write_bytes, write_text
from trainer.job.stdout import printable, show, table
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import SEED, Group, Result, best_of, groups, rank

TABLE, PLOT = "sweep.csv", "sweep.png"
_FIGURES = {  # of the printed table: heading -> field of a Result, format
    "steps": ("steps", "{:,}"),
    "examples/s": ("examples_per_second", "{:,.0f}"),
    "time": ("seconds", "{:.1f} s"),
}
_WIDEST = 60  # characters of an error in the printed table; sweep.csv has all of it


def show_results(folder: Path, warn: Callable[[str], object]) -> None:
    """Print the tables of a sweep, and write sweep.csv and sweep.png, or warn that it cannot."""
    show(tables(sweep_folder.results(folder)))
    try:
        with lock.turn(folder / sweep_folder.TURN):
            results, text = sweep_folder.results(folder), io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["rank", "member", *results[0].values, *Result._fields[2:]])
            for place, result in rank(results):
                values = [result.values.get(key) for key in results[0].values]
                writer.writerow([place, result.name, *values, *result[2:]])
            write_text(folder / TABLE, text.getvalue())
            if by_values := groups(results):
                # Without a validation split in any trial, the plot is of the test split.
                validated = [group for group in by_values if group.mean is not None]
                shown, split = (validated, "validation") if validated else (by_values, "test")
                write_bytes(folder / PLOT, draw(shown, split, metric_of(results)[0]))
        show("\n".join(str(folder / name) for name in (TABLE, PLOT)[: 1 + bool(by_values)]))
    except OSError as error:
        warn(f"{folder} cannot be written ({error.strerror})")


def tables(results: Sequence[Result]) -> str:
    """Return the ranked table for people, and the one over the seeds if they are swept."""
    swept, by_values = list(results[0].values), groups(results)
    metric, form = metric_of(results)
    rows = [["rank", *swept, "status", f"validation {metric}", f"test {metric}", *_FIGURES, ""]]
    for place, result in rank(results):
        values = [printable(result.values.get(key, "-")) for key in swept]
        figures = [formatted(score, form) for score in (result.score, result.test_score)]
        figures += [formatted(getattr(result, name), own) for name, own in _FIGURES.values()]
        error = printable(result.error or "")[:_WIDEST] if result.status == "failed" else ""
        rows.append([formatted(place, "{}"), *values, result.status, *figures, error])
    lines = list(table(rows, {*range(1, len(swept) + 2), len(rows[0]) - 1}))
    if by_values and SEED in swept:
        options = list(by_values[0].values)
        heads = [f"validation {metric}", "spread", f"test {metric}", "spread"]
        rows = [[*options, "seeds", *heads]]
        for group in by_values:
            figures = [formatted(number, form) for number in group[2:6]]
            rows.append([*map(printable, group.values.values()), str(group.seeds), *figures])
        lines += ["", *table(rows, range(len(options)))]
    completed = [result for result in results if result.status == "completed"]
    if completed and all(result.score is None for result in completed):
        lines += ["", "Not ranked: these trials have no validation split to be selected by."]
    return "\n".join(lines)


def draw(by_values: Sequence[Group], split: str, metric: str) -> bytes:
    """Return the plot as PNG: for each combination all seeds, their mean and their deviation."""
    # Not pyplot, whose backend may need a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, max(3.0, 1.0 + 0.35 * len(by_values))), dpi=120, layout="tight")
    scale = 100 if metric == "accuracy" else 1
    axes = figure.add_subplot(xlabel=f"{split} {metric}" + (", %" if scale == 100 else ""))
    for row, group in enumerate(by_values):
        scores = [scale * score for score in group.scores]
        axes.plot(scores, [row] * len(scores), ".", color="C0", alpha=0.5)
        spread = scale * ((group.test_spread if group.mean is None else group.spread) or 0.0)
        mean = statistics.fmean(scores)
        axes.errorbar(mean, row, xerr=spread, fmt="o", color="C0", capsize=3)
    labels = [", ".join(f"{k}={v}" for k, v in group.values.items()) for group in by_values]
    axes.set_yticks(range(len(by_values)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, format="png", backend="agg")
    return png.getvalue()


def metric_of(results: Sequence[Result]) -> tuple[str, str]:
    """Return the metric that trials are ranked by, and its format."""
    metric = best_of(results).partition(":")[0]
    return metric, "{:.2%}" if metric == "accuracy" else "{:.4f}"


def formatted(value: float | None, form: str) -> str:
    """Return a number in a format; a dash for None."""
    return "-" if value is None else form.format(value)
