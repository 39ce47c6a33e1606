"""A whole split: sums and counts over every example exactly once, divided once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from trainer import mesh as meshes
from trainer.datasets import Split
from trainer.model import Weights
from trainer.step import EvalStep
from trainer.stream import Superbatch

BYTES_PER_DISPATCH = 256 << 20  # of images, to bound the memory an evaluation takes


class Means(NamedTuple):
    """What an evaluation found."""

    loss: float
    accuracy: float
    examples: int


def evaluate(
    eval_step: EvalStep, weights: Weights, split: Split, mesh: Mesh, batch_size: int
) -> Means:
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
    totals = np.zeros(3)
    for lo in range(0, len(split.images), portions * batch_size):
        position = lo + np.arange(portions * batch_size).reshape(portions, batch_size)[:, rows]
        mask = position < len(split.images)
        index = np.where(mask, position, 0)
        batch = Superbatch(split.images[index], split.labels[index], mask.astype(np.uint8))
        totals += jax.device_get(eval_step(weights, meshes.place(meshes.batched(mesh), batch)))
    loss, correct, count = totals
    return Means(loss / count, correct / count, int(count))
