"""A whole split: every example exactly once, the mean divided once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from trainer import mesh as meshes
from trainer.batch import Superbatch
from trainer.datasets import Split
from trainer.eval_step import Answers, EvalStep
from trainer.model import Weights

BYTES_PER_DISPATCH = 256 << 20  # of images, to bound the memory an evaluation takes


class Outcome(NamedTuple):
    """What an evaluation found; arrays (N,) in the order of the split, on the host."""

    loss: float
    accuracy: float
    examples: int
    predictions: npt.NDArray[np.int32]
    confidences: npt.NDArray[np.float32]  # the probability of each prediction


def evaluate(
    eval_step: EvalStep,
    weights: Weights,
    split: Split,
    mesh: Mesh,
    batch_size: int,
    virtual_shards: int | None = None,
) -> Outcome:
    """Evaluate the weights on a split; waits for the result.

    Args:
        eval_step: the program of eval_step.make.
        weights: the weights, on every device.
        split: the examples, on the host.
        mesh: the devices.
        batch_size: examples a portion, over all devices, at most the whole split; rounded up to
            divide over the devices. It changes no count, and the loss only by rounding.
        virtual_shards: that the program was made for.
    """
    multiple = virtual_shards or mesh.size
    batch_size = -(-min(batch_size, len(split.images)) // multiple) * multiple
    rows = meshes.local_rows(mesh, batch_size, "train.eval_batch_size")
    pixels = split.images.shape[1]
    portions = max(1, BYTES_PER_DISPATCH // (batch_size * pixels))
    portions = min(portions, -(-len(split.images) // batch_size))
    found: list[Answers] = []
    for lo in range(0, len(split.images), portions * batch_size):
        position = lo + np.arange(portions * batch_size).reshape(portions, batch_size)[:, rows]
        mask = position < len(split.images)
        index = np.where(mask, position, 0)
        batch = Superbatch(split.images[index], split.labels[index], mask.astype(np.uint8))
        answers = jax.device_get(eval_step(weights, meshes.place(meshes.batched(mesh), batch)))
        # Only the last portions are filled up, and behind the end.
        found.append(jax.tree.map(lambda x: x.ravel()[: len(split.images) - lo], answers))  # noqa: B023
    losses, predictions, confidences = (np.concatenate(x) for x in zip(*found, strict=True))
    loss = float(np.mean(losses, dtype=np.float64))
    accuracy = float(np.mean(predictions == split.labels))
    return Outcome(loss, accuracy, len(losses), predictions, confidences)
