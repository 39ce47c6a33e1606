"""The evaluation step: what the model answers to each example, whatever the devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from trainer import compiler, model
from trainer.batch import Superbatch
from trainer.mesh import AXIS, replicated
from trainer.objective import Objective, batch_logits, batch_losses


class Answers(NamedTuple):
    """What the model says to each example, (C, batch), the same on every device."""

    losses: jax.Array  # float32
    predictions: jax.Array  # int32: the class with the largest logit
    confidences: jax.Array  # float32: the probability of that class


EvalStep = Callable[[model.Weights, Superbatch], Answers]


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

    def answer(weights: model.Weights, batch: Superbatch) -> Answers:
        logits = batch_logits(weights, jnp.asarray(batch.images), objective)
        losses = batch_losses(logits, jnp.asarray(batch.labels), objective)
        confidences = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
        return Answers(losses, jnp.argmax(logits, axis=-1).astype(jnp.int32), confidences)

    def portions(weights: model.Weights, batch: Superbatch) -> Answers:
        def portion(rows: Superbatch) -> Answers:
            split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
            each = lax.map(lambda part: answer(weights, part), split)
            return jax.tree.map(lambda x: x.reshape(-1), each)

        return lax.map(portion, batch)

    rows = PartitionSpec(None, AXIS)
    sharded = jax.shard_map(portions, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=rows)
    return jax.jit(sharded, out_shardings=replicated(mesh), compiler_options=compiler_options)
