"""What a trained model's outputs are worth: loss and accuracy over a whole split."""

from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Bytes
from trainer.tasks import confusion
from trainer.tasks.classification import Objective, batch_losses


class Assessment(NamedTuple):
    """Means over all examples of a split."""

    accuracy: float  # 0 to 1
    loss: float  # the one that the run minimized
    examples: int
    confusion: npt.NDArray[np.int64]  # (classes, classes): how often row was taken for column


def assess(logits: npt.NDArray[np.float32], labels: Bytes, objective: Objective) -> Assessment:
    """Compare logits (N, classes) with the labels (N,)."""
    losses = partial(batch_losses, objective=objective)
    each = jax.device_get(jax.jit(losses)(*jax.device_put((logits, labels))))
    counts = confusion.count(labels, np.argmax(logits, axis=-1), objective.num_classes)
    accuracy = float(np.trace(counts) / len(labels))
    return Assessment(accuracy, float(np.mean(each, dtype=np.float64)), len(labels), counts)
