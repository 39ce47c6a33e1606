"""Evaluating a whole split: every example exactly once, the mean divided once."""

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
from trainer.parallel import mesh as meshes
from trainer.parallel.compiler import XlaOptions
from trainer.parallel.mesh import AXIS, replicated
from trainer.tasks.classification import Objective, batch_logits, batch_losses

BYTES_PER_DISPATCH = 256 << 20  # of images, over all devices; a smaller split stays on them


class Predictions(NamedTuple):
    """The model's predictions for C batches, (C, batch), the same on every device."""

    losses: jax.Array  # float32
    classes: jax.Array  # int32: the class with the largest logit
    confidences: jax.Array  # float32: the probability of that class


class Evaluation(NamedTuple):
    """The result for a split; arrays (N,) in the order of the split, on the host."""

    loss: float
    accuracy: float
    examples: int
    predictions: npt.NDArray[np.int32]
    confidences: npt.NDArray[np.float32]  # the probability of each prediction


EvalStep = Callable[[mlp.Weights, Superbatch], Predictions]


def make_eval_step(
    objective: Objective,
    mesh: Mesh,
    virtual_shards: int | None = None,
    xla_options: XlaOptions | None = None,
) -> EvalStep:
    """Build the program that evaluates C batches: (weights, batch) -> predictions.

    It takes images (C, batch, pixels), labels (C, batch), mask (C, batch), all uint8 and sharded
    along dim 1. The C batches are computed one after the other, which bounds the memory of the
    activations.

    Args:
        objective: the loss and its parameters.
        mesh: the devices.
        virtual_shards: compute this many parts of each batch one by one, for the same bits on any
            number of devices that divides it; None: one part a device.
        xla_options: XLA's compile options.
    """
    parts = (virtual_shards or mesh.size) // mesh.size  # of each batch, on each device

    def predict(weights: mlp.Weights, batch: Superbatch) -> Predictions:
        logits = batch_logits(weights, jnp.asarray(batch.images), objective)
        losses = batch_losses(logits, jnp.asarray(batch.labels), objective)
        confidences = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
        return Predictions(losses, jnp.argmax(logits, axis=-1).astype(jnp.int32), confidences)

    def predict_all(weights: mlp.Weights, batches: Superbatch) -> Predictions:
        def predict_batch(batch: Superbatch) -> Predictions:
            split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
            each = lax.map(lambda part: predict(weights, part), split)
            return jax.tree.map(lambda x: x.reshape(-1), each)

        return lax.map(predict_batch, batches)

    rows = PartitionSpec(None, AXIS)
    sharded = jax.shard_map(
        predict_all, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows
    )
    return jax.jit(sharded, out_shardings=replicated(mesh), compiler_options=xla_options)


class Evaluator:
    """Evaluates weights on a split, any number of times.

    A split that fits into one dispatch is copied to the devices once and stays there.
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
            eval_step: the program that make_eval_step built.
            split: the examples, on the host.
            mesh: the devices.
            batch_size: examples a batch, over all devices, at most the whole split; rounded up to
                divide over the devices. It changes no count, and the loss only by rounding.
            virtual_shards: the number that the program was built for.
        """
        self._eval_step, self._split, self._mesh = eval_step, split, mesh
        multiple = virtual_shards or mesh.size
        size = -(-min(batch_size, len(split.images)) // multiple) * multiple
        self._rows = meshes.local_rows(mesh, size, "train.eval_batch_size")
        batches = max(1, BYTES_PER_DISPATCH // (size * split.images.shape[1]))
        self._shape = (min(batches, -(-len(split.images) // size)), size)
        self._on_devices: Superbatch | None = None  # the whole split, if it fits

    def __call__(self, weights: mlp.Weights) -> Evaluation:
        """Evaluate weights that every device holds; waits for the result."""
        split, examples = self._split, len(self._split.images)
        parts: list[Predictions] = []
        for first in range(0, examples, self._shape[0] * self._shape[1]):
            # Waits for the devices: here for every dispatch of an evaluation.
            part = jax.device_get(self._eval_step(weights, self._batch(first)))
            # Only the end of the last batches is padding: drop it.
            parts.append(jax.tree.map(lambda x: x.ravel()[: examples - first], part))  # noqa: B023
        losses, predictions, confidences = (np.concatenate(x) for x in zip(*parts, strict=True))
        loss = float(np.mean(losses, dtype=np.float64))
        accuracy = float(np.mean(predictions == split.labels))
        return Evaluation(loss, accuracy, len(losses), predictions, confidences)

    def _batch(self, first: int) -> Superbatch:
        """Return the batches of one dispatch, from example `first` on, on the devices."""
        if self._on_devices is not None:
            return self._on_devices
        examples = len(self._split.images)
        position = first + np.arange(self._shape[0] * self._shape[1]).reshape(self._shape)
        mask = position[:, self._rows] < examples
        index = np.where(mask, position[:, self._rows], 0)
        images, labels = self._split.images[index], self._split.labels[index]
        batch = Superbatch(images, labels, mask.astype(np.uint8))
        placed: Superbatch = meshes.place(meshes.batched(self._mesh), batch)
        if position.size >= examples:
            self._on_devices = placed
        return placed
