"""Metrics of training, validation and test in one picture, each split in a colour.

TensorBoard gives all curves of a run one colour, so that the chart `loss` hides which is which.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.tasks import pictures

SPLITS = {"train": (0.84, 0.45, 0.0), "validation": pictures.RIGHT, "test": (0.0, 0.0, 0.0)}
MOST = 4  # metrics drawn
NO_METRICS = ("step", "split", "time")


def draw(points: Sequence[Mapping[str, Any]], title: str) -> bytes | None:
    """Draw the metrics that points of metrics.jsonl have of training and evaluations, a chart each.

    Returns a PNG file, or None if there is no such metric. What is not finite is left out.
    """
    by_split = {split: [p for p in points if p.get("split") == split] for split in SPLITS}
    train, *others = ({name for p in by for name in p} for by in by_split.values())
    both = train & set().union(*others)
    names = [n for n in dict.fromkeys(n for p in points for n in p) if n in both]
    names = [name for name in names if name not in NO_METRICS][:MOST]
    if not names:
        return None
    figure = pictures.figure_of(550, 60 + 210 * len(names))
    figure.set_layout_engine("constrained")
    figure.suptitle(title, size=pictures.LARGE)
    charts = figure.subplots(len(names), squeeze=False)[:, 0]
    for chart, name in zip(charts, names, strict=True):
        for split, colour in SPLITS.items():
            drawn = [
                (p["step"], p[name]) for p in by_split[split] if np.isfinite(p.get(name, np.nan))
            ]
            x, y = [x for x, _ in drawn], [y for _, y in drawn]
            if drawn:
                marker = None if split == "train" else "."
                chart.plot(x, y, marker=marker, color=colour, label=split)
        chart.set_ylabel(name, size=pictures.LARGE)
        chart.grid(alpha=0.3)
    charts[0].legend()
    charts[-1].set_xlabel("steps", size=pictures.LARGE)
    return pictures.png(figure)
