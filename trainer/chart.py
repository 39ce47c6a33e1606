"""sweep.png: the test accuracy of every member, and the mean and spread over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.ranking import Group, Result, groups
from trainer.sweep import SEED

_MOST_LINES = 8  # of a diagram over a number; with more, and without one, a row for each group


def draw(path: Path, results: Sequence[Result]) -> bool:
    """Draw the completed members; return False, and draw nothing, where there are none.

    Where a swept option is a number, the accuracy stands over it, with a line for each combination
    of the other options; elsewhere every combination has a row.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    found = groups(results)
    if not found:
        return False
    from matplotlib.figure import Figure

    points: dict[tuple[str, ...], list[float]] = {}
    for result in results:
        if result.status == "completed" and result.test_accuracy is not None:
            points.setdefault(_key(result.values), []).append(100 * result.test_accuracy)
    option = _number(found)
    lines: dict[str, list[Group]] = {}
    if option is not None:
        for group in sorted(found, key=lambda group: float(group.values[option])):
            others = ", ".join(f"{k}={v}" for k, v in group.values.items() if k != option)
            lines.setdefault(others, []).append(group)
    tall = option is None or len(lines) > _MOST_LINES
    figure = Figure(figsize=(8, max(3.0, 1.0 + 0.35 * len(found)) if tall else 4.5), dpi=120)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    if tall or option is None:
        for row, group in enumerate(reversed(found)):
            own = points[_key(group.values)]
            axes.plot(own, [row] * len(own), ".", color="C0", alpha=0.5)
            spread = 100 * (group.spread or 0.0)
            axes.errorbar(100 * group.mean, row, xerr=spread, fmt="o", color="C0", capsize=3)
        labels = [", ".join(f"{k}={v}" for k, v in g.values.items()) for g in reversed(found)]
        axes.set_yticks(range(len(found)), [label or "all seeds" for label in labels], fontsize=8)
        axes.set_xlabel(_title(found))
    else:
        for number, (label, members) in enumerate(lines.items()):
            places = [float(group.values[option]) for group in members]
            for place, group in zip(places, members, strict=True):
                own = points[_key(group.values)]
                axes.plot([place] * len(own), own, ".", color=f"C{number}", alpha=0.5)
            means = [100 * group.mean for group in members]
            spreads = [100 * (group.spread or 0.0) for group in members]
            axes.errorbar(
                places, means, yerr=spreads, fmt="o-", color=f"C{number}", capsize=3, label=label
            )
        places = [float(group.values[option]) for group in found]
        if min(places) > 0 and max(places) >= 10 * min(places):
            axes.set_xscale("log")
        axes.set_xlabel(option)
        axes.set_ylabel(_title(found))
        if any(lines):
            axes.legend(fontsize=8)
    figure.tight_layout()
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
    return True


def _key(values: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in values.items() if key != SEED)


def _title(found: Sequence[Group]) -> str:
    seeds = max(group.seeds for group in found)
    return f"test accuracy, %{'; mean and deviation over the seeds' if seeds > 1 else ''}"


def _number(found: Sequence[Group]) -> str | None:
    """Return the swept option, if there is one, that is a number with several values."""
    for option in found[0].values:
        try:
            if len({float(group.values[option]) for group in found}) > 1:
                return option
        except (KeyError, ValueError):
            continue
    return None
