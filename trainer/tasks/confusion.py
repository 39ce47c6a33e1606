"""Which class is taken for which: the confusion matrix, from labels and predictions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]  # (classes, classes): [label, prediction]
Shares = npt.NDArray[np.float64]


def count(labels: npt.NDArray[Any], predictions: npt.NDArray[Any], num_classes: int) -> Counts:
    """Count how often each class was taken for each.

    Args:
        labels: (N,), integers from 0 to num_classes - 1.
        predictions: (N,), integers likewise.
        num_classes: C.

    Returns:
        (C, C) int64: row l, column p holds the number of examples of class l taken for p. The sum
        is N, the diagonal holds the correct ones.

    Raises:
        ValueError: the lengths differ, or a class is out of range.
    """
    if labels.shape != predictions.shape or labels.ndim != 1:
        raise ValueError(
            f"labels of shape {labels.shape} and predictions of shape {predictions.shape}: "
            "expected two vectors of one length"
        )
    for name, classes in (("label", labels), ("prediction", predictions)):
        if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
            raise ValueError(f"a {name} is not among 0 to {num_classes - 1}")
    pairs = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def of_predictions(
    examples: Mapping[str, Any],
    predictions: Mapping[str, npt.NDArray[Any]],
    num_classes: int = 0,
) -> Counts | None:
    """Count the predictions of a classifier (N,) for examples with a `label`; None for others.

    Classes go from 0 to the largest that occurs, and there are at least `num_classes`.
    """
    labels, classes = examples.get("label"), predictions.get("class")
    if labels is None or classes is None or labels.ndim != 1:
        return None
    labels = np.asarray(labels)
    return count(labels, classes, max(num_classes, int(labels.max()) + 1, int(classes.max()) + 1))


def names_of(counts: Counts, names: Sequence[str]) -> list[str]:
    """Return a name for each class; the number of one that has no name."""
    return [*names[: len(counts)], *map(str, range(len(names), len(counts)))]


def normalized(counts: Counts) -> Shares:
    """Return (C, C) float64: the share of each prediction among the examples of a class.

    Rows add up to 1; that of a class without examples is zero.
    """
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def class_accuracies(counts: Counts) -> Shares:
    """Return (C,) float64: the share of each class that is recognised; NaN without examples."""
    examples = counts.sum(axis=1)
    right = np.diagonal(counts).astype(np.float64)
    return np.divide(right, examples, out=np.full(len(counts), np.nan), where=examples > 0)
