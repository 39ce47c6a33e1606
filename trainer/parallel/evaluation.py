"""A whole split: every example exactly once, the mean divided once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from trainer.data.dataset import Split, Superbatch
from trainer.models import mlp
from trainer.models.mlp import Weights
from trainer.parallel import compiler
from trainer.parallel import mesh as meshes
from trainer.parallel.mesh import AXIS, replicated
from trainer.tasks.classification import Objective, batch_logits, batch_losses


class Answers(NamedTuple):
    """What the model says to each example, (C, batch), the same on every device."""

    losses: jax.Array  # float32
    predictions: jax.Array  # int32: the class with the largest logit
    confidences: jax.Array  # float32: the probability of that class


EvalStep = Callable[[mlp.Weights, Superbatch], Answers]


def make(
    objective: Objective,
    mesh: Mesh,
    virtual_shards: int | None = None,
    compiler_options: compiler.Options | None = None,
) -> EvalStep:
    """Build the program that answers C batches: (weights, batch) -> answers.

    It takes images (C, batch, pixels), labels (C, batch), mask (C, batch), all uint8 and sharded
    along dim 1, and reads the weights in C portions to bound the memory of the activations.

    Args:
        objective: the loss and what it needs.
        mesh: the devices.
        virtual_shards: compute so many parts of each batch one by one, for the same bits on any
            number of devices that divides it; None: one part a device.
        compiler_options: of XLA.
    """
    parts = (virtual_shards or mesh.size) // mesh.size

    def answer(weights: mlp.Weights, batch: Superbatch) -> Answers:
        logits = batch_logits(weights, jnp.asarray(batch.images), objective)
        losses = batch_losses(logits, jnp.asarray(batch.labels), objective)
        confidences = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
        return Answers(losses, jnp.argmax(logits, axis=-1).astype(jnp.int32), confidences)

    def portions(weights: mlp.Weights, batch: Superbatch) -> Answers:
        def portion(rows: Superbatch) -> Answers:
            split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
            each = lax.map(lambda part: answer(weights, part), split)
            return jax.tree.map(lambda x: x.reshape(-1), each)

        return lax.map(portion, batch)

    rows = PartitionSpec(None, AXIS)
    sharded = jax.shard_map(portions, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows)
    return jax.jit(sharded, out_shardings=replicated(mesh), compiler_options=compiler_options)


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
