"""The plot of a run: one panel for each section that was measured and can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PANELS = {  # section: the unit of its lines to draw, and a title
    "rivals": ("s an epoch", "Seconds an epoch, batch 64 (less is better)"),
    "batch": ("images/s", "Images a second by batch size and K"),
    "data": ("M images/s", "The data path alone, million images a second"),
    "scaling": ("ms a step", "Milliseconds a step: measured and predicted"),
}


def draw(sections: Mapping[str, Any], path: Path) -> str:
    """Write the plot where there is something to draw; return words for the closing line."""
    names = [name for name in PANELS if name in sections]
    if not names:
        return ""
    from matplotlib.figure import Figure  # writes to its cache folder: not for a mistyped option

    figure = Figure(figsize=(8, 3.2 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        unit, title = PANELS[name]
        lines = [one for one in sections[name]["lines"] if one["values"] and one["unit"] == unit]
        _bars(axis, lines)
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    return f", {path}"


def _bars(axis: Any, lines: list[Mapping[str, Any]]) -> None:
    shown = lines[::-1]
    medians = [line["median"] for line in shown]
    below = [line["median"] - line["min"] for line in shown]
    above = [line["max"] - line["median"] for line in shown]
    names = [line["name"] for line in shown]
    axis.barh(names, medians, xerr=[below, above], capsize=3, color="#4878a8")
