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

BYTES_PER_DISPATCH = 256 << 20  # of images, over all devices; a split so small stays on them


class Outcome(NamedTuple):
    """What an evaluation found; arrays (N,) in the order of the split, on the host."""

    loss: float
    accuracy: float
    examples: int
    predictions: npt.NDArray[np.int32]
    confidences: npt.NDArray[np.float32]  # the probability of each prediction


class Evaluator:
    """Evaluates weights on a split, however often.

    A split that fits into one dispatch stays on the devices from the first time on.
    """

    def __init__(
        self,
        eval_step: EvalStep,
        split: Split,
        mesh: Mesh,
        batch_size: int,
        virtual_shards: int | None = None,
    ) -> None:
        """Plan the dispatches; nothing is copied yet.

        Args:
            eval_step: the program of eval_step.make.
            split: the examples, on the host.
            mesh: the devices.
            batch_size: examples a portion, over all devices, at most the whole split; rounded up to
                divide over the devices. It changes no count, and the loss only by rounding.
            virtual_shards: that the program was made for.
        """
        self._eval_step, self._split, self._mesh = eval_step, split, mesh
        multiple = virtual_shards or mesh.size
        size = -(-min(batch_size, len(split.images)) // multiple) * multiple
        self._rows = meshes.local_rows(mesh, size, "train.eval_batch_size")
        portions = max(1, BYTES_PER_DISPATCH // (size * split.images.shape[1]))
        self._shape = (min(portions, -(-len(split.images) // size)), size)
        self._kept: Superbatch | None = None

    def __call__(self, weights: Weights) -> Outcome:
        """Return what weights, on every device, make of the split; waits for the result."""
        split, examples = self._split, len(self._split.images)
        found: list[Answers] = []
        for first in range(0, examples, self._shape[0] * self._shape[1]):
            answers = jax.device_get(self._eval_step(weights, self._batch(first)))
            # Only the last portions are filled up, and behind the end.
            found.append(jax.tree.map(lambda x: x.ravel()[: examples - first], answers))  # noqa: B023
        losses, predictions, confidences = (np.concatenate(x) for x in zip(*found, strict=True))
        loss = float(np.mean(losses, dtype=np.float64))
        accuracy = float(np.mean(predictions == split.labels))
        return Outcome(loss, accuracy, len(losses), predictions, confidences)

    def _batch(self, first: int) -> Superbatch:
        """Return the examples of a dispatch, from the first one on, on the devices."""
        if self._kept is not None:
            return self._kept
        examples = len(self._split.images)
        position = first + np.arange(self._shape[0] * self._shape[1]).reshape(self._shape)
        mask = position[:, self._rows] < examples
        index = np.where(mask, position[:, self._rows], 0)
        images, labels = self._split.images[index], self._split.labels[index]
        batch = Superbatch(images, labels, mask.astype(np.uint8))
        placed: Superbatch = meshes.place(meshes.batched(self._mesh), batch)
        if position.size >= examples:
            self._kept = placed
        return placed
