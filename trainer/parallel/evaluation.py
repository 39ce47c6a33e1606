"""Evaluating a whole split: every example exactly once, the mean divided once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.sharding import Mesh

from trainer.data.dataset import Examples, Superbatch, bytes_of_one, size
from trainer.data.rows import gather
from trainer.parallel import mesh as meshes
from trainer.parallel import remat, sharding
from trainer.parallel.compiler import XlaOptions
from trainer.parallel.mesh import replicated
from trainer.tasks.task import Named, Task, Weights, apply, losses_and_metrics

# Of examples, over all devices.
BYTES_TO_KEEP = 256 << 20  # a split that is not larger stays on the devices
BYTES_PER_DISPATCH = 8 << 20  # of one that does not


class Evaluation(NamedTuple):
    """The result for a split, on the host."""

    means: dict[str, float]  # of the loss, and of each metric
    examples: int
    predictions: dict[str, npt.NDArray[Any]]  # see Task.prediction; (N,) in the order of the split

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.means["loss"]


# Jitted: (weights, batch) -> (loss and metrics, predictions), each (C, batch), the same on every
# device.
EvalStep = Any


def make_eval_step(
    task: Task,
    mesh: Mesh,
    virtual_shards: int | None = None,
    xla_options: XlaOptions | None = None,
    shard_state: str = "none",
) -> EvalStep:
    """Build the program that evaluates C batches.

    It takes fields (C, batch, ...) and the mask (C, batch), sharded along dim 1. The C batches are
    computed one after the other, which bounds the memory of the activations.

    With `virtual_shards`, that many parts of each batch are computed one by one, for the same bits
    on any number of devices that divides it. If the devices share the weights, `shard_state` "all",
    these are gathered a few at a time, each where it is used; with virtual shards all at once.
    """
    specs = sharding.specs(sharding.of_weights(task.shapes, mesh, shard_state))
    shared = sharding.sharing(task.shapes, mesh) if shard_state == "all" else None
    parts = (virtual_shards or mesh.size) // mesh.size  # of each batch, on each device
    if shared is not None and virtual_shards is None:
        task = remat.in_parts(task, len(jax.tree.leaves(shared.dims)), shared)

    def test(weights: Weights, batch: Superbatch) -> tuple[tuple[jax.Array, ...], Named]:
        if shared is not None and virtual_shards is not None:  # as one device has them
            weights = sharding.gathered(weights, shared)
        examples = jax.tree.map(jnp.asarray, batch.examples)
        outputs = apply(task, weights, examples)
        predictions = {} if task.prediction is None else jax.vmap(task.prediction)(outputs)
        return losses_and_metrics(task, outputs, examples), predictions

    def test_all(weights: Weights, batches: Superbatch) -> tuple[tuple[jax.Array, ...], Named]:
        def test_batch(batch: Superbatch) -> tuple[tuple[jax.Array, ...], Named]:
            split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
            each = lax.map(lambda part: test(weights, part), split)
            return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), each)

        return lax.map(test_batch, batches)

    rows = meshes.rows(mesh)
    sharded = jax.shard_map(
        test_all,
        mesh=mesh,
        in_specs=(specs, rows),
        out_specs=rows,
        check_vma=False,  # as in step.py
    )
    return jax.jit(sharded, out_shardings=replicated(mesh), compiler_options=xla_options)


class Evaluator:
    """Evaluates weights on a split, any number of times.

    A split that fits into one dispatch is copied to the devices once and stays there.
    """

    def __init__(
        self,
        eval_step: EvalStep,
        metric_names: Sequence[str],
        split: Examples,
        mesh: Mesh,
        batch_size: int,
        virtual_shards: int | None = None,
    ) -> None:
        """Plan the dispatches; nothing is copied yet.

        Args:
            eval_step: the program that make_eval_step built.
            metric_names: of the task.
            split: the examples, on the host.
            mesh: the devices.
            batch_size: examples a batch, over all devices, at most the whole split; rounded up to
                divide over the devices. It changes no count, and the loss only by rounding.
            virtual_shards: the number that the program was built for.
        """
        self._eval_step, self._split, self._mesh = eval_step, split, mesh
        self._names = ("loss", *metric_names)
        self._size = size(split)
        multiple = virtual_shards or mesh.size
        rows = -(-min(batch_size, self._size) // multiple) * multiple
        self._rows = meshes.local_rows(mesh, rows)
        batches, bytes_ = -(-self._size // rows), max(1, rows * bytes_of_one(split))
        if batches * bytes_ > BYTES_TO_KEEP:
            batches = max(1, BYTES_PER_DISPATCH // bytes_)
        self.shape = (batches, rows)  # of a dispatch
        self.keeps = batches * rows >= self._size  # whether the whole split stays on the devices
        self._on_devices: Superbatch | None = None

    def __call__(self, weights: Weights) -> Evaluation:
        """Evaluate weights as the program takes them; waits for the result."""
        parts = []
        for first in range(0, self._size, self.shape[0] * self.shape[1]):
            # Waits for the devices: here for every dispatch of an evaluation.
            part = jax.device_get(self._eval_step(weights, self._batch(first)))
            left = self._size - first
            # Only the end of the last batches is padding: drop it.
            parts.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:left], part))  # noqa: B023
        columns, predictions = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        means = {
            name: float(np.mean(column, dtype=np.float64))
            for name, column in zip(self._names, columns, strict=True)
        }
        return Evaluation(means, len(columns[0]), predictions)

    def _batch(self, first: int) -> Superbatch:
        """Return the batches of one dispatch, from example `first` on, on the devices."""
        if self._on_devices is not None:
            return self._on_devices
        position = first + np.arange(self.shape[0] * self.shape[1]).reshape(self.shape)
        mask = position[:, self._rows] < self._size
        index = np.where(mask, position[:, self._rows], 0)
        examples = {name: gather(array, index) for name, array in self._split.items()}
        batch = Superbatch(examples, mask.astype(np.uint8))
        placed: Superbatch = meshes.place(meshes.batched(self._mesh), batch)
        if self.keeps:
            self._on_devices = placed
        return placed
