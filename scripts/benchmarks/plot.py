"""The plot of a run: one panel for each section that was measured and can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

PANELS = {  # section: the unit of its lines to draw, and a title
    "rivals": ("s an epoch", "Seconds an epoch, batch 64 (less is better)"),
    "batch": ("", "Images a second by batch size"),
    "data": ("M images/s", "The data path alone, million images a second"),
    "scaling": ("ms a step", "Milliseconds a step: measured and predicted"),
}


def draw(sections: Mapping[str, Any], path: Path) -> str:
    """Write the plot where there is something to draw; return words for the closing line."""
    names = [name for name in PANELS if name in sections]
    if not names:
        return ""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return "; no plot: pip install matplotlib"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = (8, 3.2 * len(names))
    figure, axes = plt.subplots(len(names), figsize=size, layout="constrained", squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        unit, title = PANELS[name]
        if name == "batch":
            _curves(axis, sections[name]["facts"]["by_batch"])
        else:
            _bars(axis, [one for one in sections[name]["lines"] if one["unit"] == unit])
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return f", {path}"


def _bars(axis: Any, lines: list[Mapping[str, Any]]) -> None:
    shown = [line for line in lines if line["values"]][::-1]
    medians = [line["median"] for line in shown]
    below = [line["median"] - line["min"] for line in shown]
    above = [line["max"] - line["median"] for line in shown]
    names = [line["name"] for line in shown]
    axis.barh(names, medians, xerr=[below, above], capsize=3, color="#4878a8")


def _curves(axis: Any, by_batch: Mapping[str, Mapping[str, float]]) -> None:
    for name, rates in by_batch.items():
        sizes = sorted(map(int, rates))
        axis.plot(sizes, [rates[str(size)] for size in sizes], marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("batch size", fontsize=8)
    axis.legend(fontsize=8)
