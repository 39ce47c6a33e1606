"""The pictures and histograms that TensorBoard shows of a run, as summaries."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trainer.data.dataset import Dataset, Examples, first, size
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import pictures
from trainer.tasks.task import Weights, named_leaves
from trainer.tracking import summaries

SAMPLES = 16  # training images shown
FILTERS = 36  # units of the first layer shown
BINS = 64  # of a histogram
MOST_CHARTS = 4  # of metrics
COLOURS = {"train": (0.84, 0.45, 0.0), "validation": pictures.RIGHT, "test": (0.0, 0.0, 0.0)}
NO_METRICS = {"step", "split", "time"}


def inputs(dataset: Dataset) -> list[Any]:
    """Draw the first training examples, if they are images."""
    examples = first(dataset.train, SAMPLES)
    if not pictures.has_images(examples):
        return []
    title = f"first of {size(dataset.train):,} training examples"
    names = dict(enumerate(dataset.class_names))
    captions = [f"label {names.get(int(label), label)}" for label in examples["label"]]
    png = pictures.digits_png(examples["image"], captions, title)
    return [summaries.image("pictures/inputs", png)]


def evaluation(
    split: str,
    step: int,
    examples: Examples,
    result: Evaluation,
    counts: pictures.Counts | None,
    names: Sequence[str] = (),
) -> list[Any]:
    """Draw an evaluation of a split after `step` steps; what the task does not have is left out.

    `names` are those of the classes, if they have any.
    """
    if counts is None:
        return []
    after, title = f"after {step:,} steps", f"{split} examples after {step:,} steps"
    percent = pictures.confusion_png(
        counts, f"percent of each true class, {title}", names, percent=True
    )
    drawn = {
        "confusion_counts": pictures.confusion_png(counts, title, names),
        "confusion_normalized": percent,
        "class_accuracy": pictures.class_accuracy_png(counts, f"{split} accuracy {after}", names),
    }
    if pictures.has_images(examples):
        classes, confidences = (result.predictions[name] for name in ("class", "confidence"))
        images, labels = examples["image"], np.asarray(examples["label"])
        drawn["most_wrong"] = pictures.mistakes_png(
            images, labels, classes, confidences, after, names
        )
    return [summaries.image(f"pictures/{split}_{name}", png) for name, png in drawn.items()]


def weights_of(weights: Weights, filters: Callable[[Weights], Any] | None) -> list[Any]:
    """Draw the weights, numpy arrays; leaves out those that are not finite."""
    drawn = []
    if filters is not None and np.isfinite(kernels := filters(weights)[:FILTERS]).all():
        drawn.append(summaries.image("pictures/filters", pictures.filters_png(kernels)))
    return drawn + [
        summaries.histogram(f"weights/{path}", leaf.astype(np.float32).ravel(), BINS)
        for path, leaf in named_leaves(weights).items()
        if np.isfinite(leaf).all()
    ]


def curves(points: Sequence[Mapping[str, Any]], watched: str, step: int) -> list[Any]:
    """Draw the metrics that training and the watched split both have in points of metrics.jsonl.

    Each metric has a chart, each split a colour: TensorBoard gives all curves of a run one colour,
    so that its chart `loss` hides which is which. What is not finite is left out.
    """
    by_split = {split: [p for p in points if p["split"] == split] for split in ("train", watched)}
    both = set.intersection(*({name for p in by for name in p} for by in by_split.values()))
    names = [n for n in dict.fromkeys(n for p in points for n in p) if n in both - NO_METRICS]
    names = names[:MOST_CHARTS]
    if not names:
        return []
    figure = pictures.figure_of(550, 60 + 210 * len(names))
    figure.set_layout_engine("constrained")
    figure.suptitle(f"until step {step:,}", size=pictures.LARGE)
    charts = figure.subplots(len(names), squeeze=False)[:, 0]
    for chart, name in zip(charts, names, strict=True):
        for split, of_split in by_split.items():
            finite = [p for p in of_split if np.isfinite(p.get(name, np.nan))]
            x, y = [p["step"] for p in finite], [p[name] for p in finite]
            marker = None if split == "train" else "."
            chart.plot(x, y, marker=marker, color=COLOURS[split], label=split)
        chart.set_ylabel(name, size=pictures.LARGE)
        chart.grid(alpha=0.3)
    charts[0].legend()
    charts[-1].set_xlabel("steps", size=pictures.LARGE)
    return [summaries.image("pictures/curves", pictures.png(figure))]
