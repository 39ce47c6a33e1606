"""The training step and the evaluation step: pure, jitted, data-parallel.

Every device computes the sums of its own rows (gradients, losses, counts); one all-reduce adds
them up over the devices; every device then divides by the number of examples and applies the same
update to its own copy of the weights. Sums and counts make a short, masked batch weigh right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from trainer import model
from trainer.functional import sgd, update
from trainer.mesh import AXIS, replicated
from trainer.stream import Superbatch


class TrainState(NamedTuple):
    """All that training changes; every device holds it whole."""

    weights: model.Weights
    optim_state: sgd.State
    step: jax.Array  # () int32: optimizer steps done


class Sums(NamedTuple):
    """Sums over examples, float32; divide the first two by the third for means."""

    loss: jax.Array
    correct: jax.Array
    count: jax.Array


class Objective(NamedTuple):
    """What is computed from a batch, besides the weights."""

    loss: str  # a key of model.LOSSES
    num_classes: int
    pixel_mean: float  # subtracted from the pixels, 0..255
    pixel_std: float  # then divides them


class Optimizer(NamedTuple):
    """What SGD needs besides the learning rate, which enters the step as a value."""

    momentum: float
    nesterov: bool


class Reduced(NamedTuple):
    """What the all-reduce of each of the K steps brings besides gradients; float32, (K,)."""

    sums: Sums
    stop_votes: jax.Array  # devices whose process was asked to stop: the same number everywhere


TrainStep = Any  # jitted: (TrainState, Superbatch, lrs, stop) -> (TrainState, Reduced)
EvalStep = Callable[[model.Weights, Superbatch], Sums]


def new_state(
    init_weights: Callable[[jax.Array], model.Weights], key: jax.Array
) -> TrainState:
    """Return the state before the first step."""
    weights = init_weights(key)
    return TrainState(weights, sgd.init(weights), jnp.zeros((), jnp.int32))


def init_state(
    init_weights: Callable[[jax.Array], model.Weights], key: jax.Array, mesh: Mesh
) -> TrainState:
    """Make the state before the first step, born on every device of the mesh."""
    make = jax.jit(partial(new_state, init_weights), out_shardings=replicated(mesh))
    return make(key)


def batch_sums(
    weights: model.Weights, batch: Superbatch, objective: Objective
) -> tuple[jax.Array, Sums]:
    """Sum over the rows of images (rows, pixels), labels (rows,) and mask (rows,), all uint8.

    Returns the summed loss, to be differentiated, and all sums, scalars.
    """
    images, labels, mask = batch
    scale = jnp.float32(1 / objective.pixel_std)
    pixels = (images.astype(jnp.float32) - jnp.float32(objective.pixel_mean)) * scale
    targets = jax.nn.one_hot(labels, objective.num_classes, dtype=jnp.float32)
    valid = mask.astype(jnp.float32)
    logits = jax.vmap(model.fwd, in_axes=(0, None))(pixels, weights)
    losses = jax.vmap(model.LOSSES[objective.loss])(logits, targets)
    loss = jnp.sum(losses * valid)
    hits = (jnp.argmax(logits, axis=-1) == labels.astype(jnp.int32)).astype(jnp.float32)
    return loss, Sums(loss, jnp.sum(hits * valid), jnp.sum(valid))


def _one_step(
    objective: Objective,
    optimizer: Optimizer,
    state: TrainState,
    batch: Superbatch,
    lr: jax.Array,
    stop: jax.Array,
) -> tuple[TrainState, Reduced]:
    """Do one optimizer step; runs on every device, on its own rows of the batch."""
    # Differentiated as this device's own copy: with respect to shared weights, jax would add the
    # gradients up over the devices by itself, and the sum below would count them N times.
    weights = lax.pcast(state.weights, AXIS, to="varying")
    gradients, sums = jax.grad(batch_sums, has_aux=True)(weights, batch, objective)
    votes = jnp.sum(stop.astype(jnp.float32))
    gradients, sums, votes = lax.psum((gradients, sums, votes), AXIS)  # the one all-reduce
    gradients = jax.tree.map(lambda g: g / sums.count, gradients)
    gradients, optim_state = sgd.step(
        gradients, state.optim_state, lr, optimizer.momentum, optimizer.nesterov
    )
    weights = update.apply_gradients(gradients, state.weights)
    return TrainState(weights, optim_state, state.step + 1), Reduced(sums, votes)


def make_train_step(
    objective: Objective, optimizer: Optimizer, mesh: Mesh, method: str
) -> TrainStep:
    """Build the program of K optimizer steps: (state, batch, lrs, stop) -> (state, reduced).

    It takes a superbatch of images (K, global_batch, pixels), labels and mask (K, global_batch),
    all uint8 and sharded along dim 1; lrs (K,) float32; stop (K, devices) uint8, sharded along
    dim 1, 1 where the device's process was asked to stop. The old state is donated: do not use it
    again.

    Args:
        objective: the loss and what it needs.
        optimizer: what SGD needs.
        mesh: the devices.
        method: "shard_map", or "pmap" for the same results the old way.
    """

    def steps(
        state: TrainState, batch: Superbatch, lrs: jax.Array, stop: jax.Array
    ) -> tuple[TrainState, Reduced]:
        def body(state: TrainState, xs: Any) -> tuple[TrainState, Reduced]:
            return _one_step(objective, optimizer, state, *xs)

        return lax.scan(body, state, (batch, lrs, stop))

    if method == "shard_map":
        whole, rows = PartitionSpec(), PartitionSpec(None, AXIS)
        sharded = jax.shard_map(
            steps, mesh=mesh, in_specs=(whole, rows, whole, rows), out_specs=(whole, whole)
        )
        return jax.jit(sharded, donate_argnums=0)

    mapped = jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(None, 1, None, 1),
        out_axes=(None, None),
        devices=list(mesh.devices.flat),
    )

    def split_rows(
        state: TrainState, batch: Superbatch, lrs: jax.Array, stop: jax.Array
    ) -> tuple[TrainState, Reduced]:
        batch, stop = jax.tree.map(
            lambda x: x.reshape(x.shape[0], mesh.size, -1, *x.shape[2:]), (batch, stop)
        )
        return mapped(state, batch, lrs, stop)

    return jax.jit(split_rows, donate_argnums=0)


def make_eval_step(objective: Objective, mesh: Mesh) -> EvalStep:
    """Build the program that sums over C batches: (weights, batch) -> sums, scalars.

    It takes images (C, batch, pixels), labels (C, batch), mask (C, batch), all uint8 and sharded
    along dim 1, and reads the weights in C portions to bound the memory of the activations.
    """

    def sums(weights: model.Weights, batch: Superbatch) -> Sums:
        _, each = lax.scan(lambda _, xs: (None, batch_sums(weights, xs, objective)[1]), None, batch)
        total = jax.tree.map(lambda x: jnp.sum(x, axis=0), each)
        return lax.psum(total, AXIS)

    rows = PartitionSpec(None, AXIS)
    sharded = jax.shard_map(
        sums, mesh=mesh, in_specs=(PartitionSpec(), rows), out_specs=PartitionSpec()
    )
    return jax.jit(sharded)
