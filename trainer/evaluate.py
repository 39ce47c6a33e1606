"""A whole split: every example examined exactly once; sums and counts, divided once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from trainer import mesh as meshes
from trainer.datasets import Split
from trainer.model import Weights
from trainer.step import EvalStep
from trainer.stream import Superbatch

BYTES_PER_DISPATCH = 256 << 20  # of images, to bound the memory an evaluation takes


class Evaluation(NamedTuple):
    """What an evaluation found; all processes get the same."""

    loss: float
    accuracy: float
    examples: int
    predictions: npt.NDArray[np.uint8]  # (examples,), in the order of the split
    confidences: npt.NDArray[np.float32]  # (examples,): the predictions' probabilities


def evaluate(
    eval_step: EvalStep, weights: Weights, split: Split, mesh: Mesh, batch_size: int
) -> Evaluation:
    """Evaluate the weights on a split; waits for the result.

    Args:
        eval_step: the program of step.make_eval_step.
        weights: the weights, on every device.
        split: the examples, on the host.
        mesh: the devices.
        batch_size: examples a portion, over all devices; rounded up to divide over them. It
            changes no count, and the loss only by rounding.
    """
    batch_size = -(-batch_size // mesh.size) * mesh.size
    rows = meshes.local_rows(mesh, batch_size, "train.eval_batch_size")
    pixels = split.images.shape[1]
    portions = max(1, BYTES_PER_DISPATCH // (batch_size * pixels))
    portions = min(portions, -(-len(split.images) // batch_size))
    totals, found = np.zeros(3), []
    for lo in range(0, len(split.images), portions * batch_size):
        position = lo + np.arange(portions * batch_size).reshape(portions, batch_size)[:, rows]
        mask = position < len(split.images)
        index = np.where(mask, position, 0)
        batch = Superbatch(split.images[index], split.labels[index], mask.astype(np.uint8))
        placed = meshes.place(meshes.batched(mesh), batch)
        sums, *each = jax.device_get(eval_step(weights, placed))
        totals += sums
        found.append([part.ravel() for part in each])
    loss, correct, count = totals
    predictions, confidences = (np.concatenate(p)[: int(count)] for p in zip(*found, strict=True))
    return Evaluation(loss / count, correct / count, int(count), predictions, confidences)
