"""The plot of a run: one panel for each section that was measured and can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(found: Mapping[str, Any], path: Path) -> str:
    """Write the plot where there is something to draw; return words for the closing line."""
    panels = [(draw_one, found[name]) for name, draw_one in PANELS.items() if name in found]
    if not panels:
        return ""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return "; no plot: pip install matplotlib"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8, 3.2 * len(panels)), layout="constrained", squeeze=False
    )
    for axis, (draw_one, section) in zip(axes[:, 0], panels, strict=True):
        draw_one(axis, section)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return f", {path}"


def _bars(axis: Any, lines: list[Mapping[str, Any]], unit: str, title: str) -> None:
    shown = [line for line in lines if line["unit"] == unit and line["values"]][::-1]
    medians = [line["median"] for line in shown]
    spread = [
        [m - line["min"] for m, line in zip(medians, shown, strict=True)],
        [line["max"] - m for m, line in zip(medians, shown, strict=True)],
    ]
    axis.barh([line["name"] for line in shown], medians, xerr=spread, capsize=3, color="#4878a8")
    axis.set_title(title, loc="left", fontsize=10)
    axis.tick_params(labelsize=8)


def _rivals(axis: Any, section: Mapping[str, Any]) -> None:
    _bars(axis, section["lines"], "s an epoch", "Seconds an epoch, batch 64 (less is better)")


def _batch(axis: Any, section: Mapping[str, Any]) -> None:
    for name, rates in section["facts"]["by_batch"].items():
        sizes = sorted(map(int, rates))
        axis.plot(sizes, [rates[str(size)] for size in sizes], marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("batch size", fontsize=8)
    axis.set_title("Images a second by batch size", loc="left", fontsize=10)
    axis.legend(fontsize=8)


def _data(axis: Any, section: Mapping[str, Any]) -> None:
    _bars(axis, section["lines"], "M images/s", "The data path alone, million images a second")


def _scaling(axis: Any, section: Mapping[str, Any]) -> None:
    _bars(axis, section["lines"], "ms a step", "Milliseconds a step: measured and predicted")


PANELS = {"rivals": _rivals, "batch": _batch, "data": _data, "scaling": _scaling}
