"""sweep.png: the test accuracy of every member, and the mean and spread over the seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainer.sweep.combine import SEED
from trainer.sweep.ranking import Group, Result, groups

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes

_MOST_LINES = 8  # over a number; with more there is a row for each group

Points = Mapping[str, Sequence[float]]  # label of a group -> accuracy of each seed, in percent


def draw(results: Sequence[Result]) -> bytes | None:
    """Return a picture of the completed members, as PNG; None where there are none.

    Where a swept option is a number, the accuracy stands over it, with a line for each combination
    of the other options; elsewhere every combination has a row.
    """
    found = groups(results)
    if not found:
        return None
    from matplotlib.figure import Figure

    points: dict[str, list[float]] = {}
    for result in results:
        if result.status == "completed" and result.test_accuracy is not None:
            points.setdefault(_label(result.values, SEED), []).append(100 * result.test_accuracy)
    option = _number(found)
    lines: dict[str, list[Group]] = {}
    if option is not None:
        for group in sorted(found, key=lambda group: float(group.values[option])):
            lines.setdefault(_label(group.values, option), []).append(group)
    in_rows = option is None or len(lines) > _MOST_LINES
    height = max(3.0, 1.0 + 0.35 * len(found)) if in_rows else 4.5
    figure = Figure(figsize=(8.0, height), dpi=120)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    seeds = max(group.seeds for group in found)
    title = f"test accuracy, %{'; mean and deviation over the seeds' if seeds > 1 else ''}"
    if option is None or in_rows:
        _draw_rows(axes, found, points)
        axes.set_xlabel(title)
    else:
        _draw_lines(axes, option, lines, points)
        axes.set_ylabel(title)
    figure.tight_layout()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw_lines(
    axes: Axes, option: str, lines: Mapping[str, Sequence[Group]], points: Points
) -> None:
    for number, (label, members) in enumerate(lines.items()):
        color = f"C{number}"
        places = [float(group.values[option]) for group in members]
        for place, group in zip(places, members, strict=True):
            own = points[_label(group.values)]
            axes.plot([place] * len(own), own, ".", color=color, alpha=0.5)
        means = [100 * group.mean for group in members]
        spreads = [100 * (group.spread or 0.0) for group in members]
        axes.errorbar(places, means, yerr=spreads, fmt="o-", color=color, capsize=3, label=label)
    ticks = sorted({float(group.values[option]) for members in lines.values() for group in members})
    if ticks[0] > 0 and ticks[-1] >= 5 * ticks[0]:
        axes.set_xscale("log")
    if len(ticks) <= _MOST_LINES:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set_xlabel(option)
    if any(lines):
        axes.legend(fontsize=8)


def _draw_rows(axes: Axes, found: Sequence[Group], points: Points) -> None:
    for row, group in enumerate(reversed(found)):  # the best at the top
        own = points[_label(group.values)]
        axes.plot(own, [row] * len(own), ".", color="C0", alpha=0.5)
        spread = 100 * (group.spread or 0.0)
        axes.errorbar(100 * group.mean, row, xerr=spread, fmt="o", color="C0", capsize=3)
    labels = [_label(group.values) or "all seeds" for group in reversed(found)]
    axes.set_yticks(range(len(found)), labels, fontsize=8)


def _label(values: Mapping[str, str], without: str | None = None) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items() if key != without)


def _number(found: Sequence[Group]) -> str | None:
    """Return the swept option, if there is one, that is a number with several values."""
    for option in found[0].values:
        try:
            if len({float(group.values[option]) for group in found}) > 1:
                return option
        except (KeyError, ValueError):
            continue
    return None
