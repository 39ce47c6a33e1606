"""Which class is taken for which: the confusion matrix, from labels and predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]  # (classes, classes): [label, prediction]
Shares = npt.NDArray[np.float64]


def of_predictions(
    examples: Mapping[str, Any],
    predictions: Mapping[str, npt.NDArray[Any]],
    num_classes: int = 0,
) -> Counts | None:
    """Count how often a classifier took each class for each; None for other tasks.

    Args:
        examples: those with a field `label`, (N,), are examples of classes: integers from 0.
        predictions: those of a classifier have `class`, (N,), integers likewise.
        num_classes: how many classes there are, if more than occur.

    Returns:
        (C, C) int64: row l, column p holds the number of examples of class l taken for p. The sum
        is N, the diagonal holds the correct ones.
    """
    labels, classes = examples.get("label"), predictions.get("class")
    if labels is None or classes is None or labels.ndim != 1:
        return None
    labels = np.asarray(labels).astype(np.int64)
    size = max(num_classes, int(labels.max()) + 1, int(classes.max()) + 1)
    pairs = labels * size + classes.astype(np.int64)
    return np.bincount(pairs, minlength=size**2).reshape(size, size)


def names_of(counts: Counts, names: Sequence[str]) -> list[str]:
    """Return a name for each class; the number of one that has no name."""
    return [*names[: len(counts)], *map(str, range(len(names), len(counts)))]


def shares(counts: Counts) -> Shares:
    """Return (C, C) float64: the share of each prediction among the examples of a class.

    Rows add up to 1, or are NaN where a class has no examples.
    """
    examples = counts.sum(axis=1, keepdims=True)
    return counts / np.where(examples > 0, examples, np.nan)
