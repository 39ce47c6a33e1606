"""The training step: pure, jitted, data-parallel.

Every device computes the sums of its own rows (gradients, losses, counts); one all-reduce adds
them up over the devices; every device then divides by the number of examples and applies the same
update to its own copy of the weights. Sums and counts make a short, masked batch weigh right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from trainer.data.dataset import Superbatch
from trainer.functional import sgd
from trainer.functional import sgd as update
from trainer.models import mlp
from trainer.parallel import compiler
from trainer.parallel.compiler import Form
from trainer.parallel.gradients import BatchGradients, of_batch
from trainer.parallel.mesh import AXIS, replicated
from trainer.tasks.classification import Objective, Sums


class TrainState(NamedTuple):
    """All that training changes; every device holds it whole."""

    weights: mlp.Weights
    optim_state: sgd.State
    step: jax.Array  # () int32: optimizer steps done


class Optimizer(NamedTuple):
    """What an update needs besides the learning rate, which enters the step as a value."""

    momentum: float
    nesterov: bool
    skip_nonfinite: bool  # True: drop an update that is not finite, go on; False: stand still


class Shards(NamedTuple):
    """How a batch is cut: over the devices, and for parallel.virtual_shards."""

    total: int | None  # None: not at all
    local: int  # on each device
    axis: str | None  # of the mesh, to add up over; None: there is one device


class Feed(NamedTuple):
    """What a dispatch of K steps consumes, on the devices; sharded along dim 1 or replicated."""

    batch: Superbatch  # images (K, global_batch, pixels), labels, mask (K, global_batch); sharded
    stop: jax.Array  # (K, devices) uint8: 1 if the device's process was asked to stop; sharded
    lrs: jax.Array  # (K,) float32; replicated
    steps: jax.Array  # (K,) int32: optimizer steps done before each; replicated


class Reduced(NamedTuple):
    """What each of the K steps tells the host, in one array: every array more is a copy more."""

    packed: jax.Array  # (K, 5) float32, the same everywhere; the columns are named below

    @property
    def sums(self) -> Sums:
        """(K,) each; zero where a step was not finite."""
        return Sums(*(self.packed[:, column] for column in range(3)))

    @property
    def finite(self) -> jax.Array:
        """(K,) bool: whether the loss was, and the bound on the gradients."""
        return self.packed[:, 3] != 0

    @property
    def stop_votes(self) -> jax.Array:
        """(K,): devices whose process was asked to stop."""
        return self.packed[:, 4]


TrainStep = Any  # jitted: (TrainState, Feed) -> (TrainState, Reduced)


def new_state(init_weights: Callable[[jax.Array], mlp.Weights], key: jax.Array) -> TrainState:
    """Return the state before the first step."""
    weights = init_weights(key)
    return TrainState(weights, sgd.init(weights), jnp.zeros((), jnp.int32))


def init_state(
    init_weights: Callable[[jax.Array], mlp.Weights], key: jax.Array, mesh: Mesh
) -> TrainState:
    """Make the state before the first step, born on every device of the mesh."""
    make = jax.jit(partial(new_state, init_weights), out_shardings=replicated(mesh))
    return make(key)


def _flip(weights: mlp.Weights, form: Form) -> mlp.Weights:
    """Transpose the last kernel where the form keeps it so while steps run: (classes, features).

    Its gradient is a matrix product with few columns, for which XLA's CPU takes ten times as long
    as for its transpose: 6 % of a step.
    """
    *hidden, last = weights
    return [*hidden, last._replace(kernel=last.kernel.T)] if form.transpose_last else weights


def _flip_state(state: TrainState, form: Form) -> TrainState:
    """Transpose the last kernel and its velocity, for the form; the rest stays.

    The barrier keeps XLA from looking through it where the loop is of one step only: K steps have
    the bits of K dispatches of one step.
    """
    velocities = cast(mlp.Weights, state.optim_state.velocities)
    weights, velocities = _flip(state.weights, form), _flip(velocities, form)
    flipped = TrainState(weights, sgd.State(velocities), state.step)
    return lax.optimization_barrier(flipped)


def _sum_over_devices(tree: Any, shards: Shards) -> Any:
    """Add up over the devices, as one array: gloo sends each of several in turn.

    XLA would copy all of it for a single device: there, do nothing.
    """
    if shards.axis is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, shards.axis))


def _reduced_gradients(
    weights: mlp.Weights, feed: Feed, objective: Objective, shards: Shards, form: Form
) -> tuple[BatchGradients, jax.Array]:
    """Sum the gradients, the sums and the votes over all devices: the one all-reduce of a step."""
    if shards.axis is not None:
        # Differentiated as this device's own copy: with respect to shared weights, jax would add
        # the gradients up over the devices by itself, and the sum below would count them N times.
        weights = lax.pcast(weights, shards.axis, to="varying")

    def of_rows(batch: Superbatch) -> BatchGradients:
        found = of_batch(_flip(weights, form), batch, objective)
        return found._replace(gradients=_flip(found.gradients, form))

    votes = jnp.sum(feed.stop.astype(jnp.float32))
    if shards.total is None:
        return _sum_over_devices((of_rows(feed.batch), votes), shards)
    # Each shard's sums go into a row of their own, all other rows are zero: adding the devices up
    # is exact. Then the rows are added in a fixed order, whatever the devices.
    rows = jax.tree.map(lambda x: x.reshape(shards.local, -1, *x.shape[1:]), feed.batch)
    each = lax.map(of_rows, rows)

    def spread(x: jax.Array) -> jax.Array:
        if shards.axis is None:
            return x
        empty = jnp.zeros((shards.total, *x.shape[1:]), x.dtype)
        first = lax.axis_index(shards.axis) * shards.local
        varying = lax.pcast(empty, shards.axis, to="varying")
        return lax.dynamic_update_slice_in_dim(varying, x, first, axis=0)

    each, votes = _sum_over_devices((jax.tree.map(spread, each), votes), shards)
    return jax.tree.map(lambda x: reduce(jnp.add, list(x)), each), votes


def _one_step(
    objective: Objective,
    optimizer: Optimizer,
    shards: Shards,
    form: Form,
    state: TrainState,
    feed: Feed,
) -> tuple[TrainState, jax.Array]:
    """Do one optimizer step; runs on every device, on its own rows of the batch.

    Returns the state, and a row of Reduced.packed.
    """
    found, votes = _reduced_gradients(state.weights, feed, objective, shards, form)
    bound, sums = found.bound, found.sums
    # Else XLA's GPU multiplies with the learning rate in a kernel of its own, for which it takes
    # the rate out of the K of them: that keeps the loop over the steps out of the CUDA graph.
    gradients = lax.optimization_barrier(found.gradients)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(2 * bound)  # twice: rounding may exceed it
    if optimizer.skip_nonfinite:
        apply, done = finite, state.step + 1
    else:  # after the first bad step the count lags behind, so all later ones stand still too
        apply = finite & (state.step == feed.steps)
        done = state.step + apply.astype(jnp.int32)

    # The learning rate is divided by the number of examples, not every gradient: the velocity holds
    # their product in any case, and the division would be a pass over memory of its own.
    def updated() -> tuple[mlp.Weights, sgd.State]:
        lr = feed.lrs / sums.examples
        updates, optim_state = sgd.step(
            gradients, state.optim_state, lr, optimizer.momentum, optimizer.nesterov
        )
        return update.apply_gradients(updates, state.weights), optim_state

    before = (state.weights, state.optim_state)
    if form.branch:
        weights, optim_state = lax.cond(apply, updated, lambda: before)
    else:
        weights, optim_state = jax.tree.map(partial(jnp.where, apply), updated(), before)
    # Between two steps in one body of the loop XLA would compute the update once for the next step
    # and once to keep it, and might round the two differently.
    state = lax.optimization_barrier(TrainState(weights, optim_state, done))
    told = [*jnp.where(finite, jnp.stack(sums), 0), finite.astype(jnp.float32), votes]
    return state, jnp.stack(told)


def make_train_step(
    objective: Objective,
    optimizer: Optimizer,
    mesh: Mesh,
    method: str,
    virtual_shards: int | None = None,
    form: Form = compiler.CPU,
    compiler_options: compiler.Options | None = None,
) -> TrainStep:
    """Build the program of K optimizer steps: (state, feed) -> (state, reduced).

    The old state is donated: do not use it again. A step that is not finite changes neither the
    weights nor the optimizer state.

    Args:
        objective: the loss and what it needs.
        optimizer: what SGD needs.
        mesh: the devices.
        method: "shard_map", or "pmap" for the same results the old way.
        virtual_shards: add up the gradients of so many parts of the batch in a fixed order, for
            the same bits on any number of devices that divides it; None: one part a device.
        form: how the step is written; the results are the same but for rounding.
        compiler_options: of XLA.
    """
    local = (virtual_shards or mesh.size) // mesh.size
    shards = Shards(virtual_shards, local, AXIS if mesh.size > 1 else None)
    jit = partial(jax.jit, donate_argnums=0, compiler_options=compiler_options)

    def steps(state: TrainState, feed: Feed) -> tuple[TrainState, Reduced]:
        one_step = partial(_one_step, objective, optimizer, shards, form)
        state, packed = lax.scan(one_step, _flip_state(state, form), feed, unroll=form.unroll)
        return _flip_state(state, form), Reduced(packed)

    if mesh.size == 1:
        return jit(steps)

    whole, rows = PartitionSpec(), PartitionSpec(None, AXIS)
    if method == "shard_map":
        sharded = jax.shard_map(
            steps,
            mesh=mesh,
            in_specs=(whole, Feed._make([rows, rows, whole, whole])),
            out_specs=(whole, whole),
        )
        return jit(sharded)

    mapped = jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(None, Feed._make([1, 1, None, None])),
        out_axes=(None, None),
        devices=list(mesh.devices.flat),
    )

    def split_rows(state: TrainState, feed: Feed) -> tuple[TrainState, Reduced]:
        batch, stop = jax.tree.map(
            lambda x: x.reshape(x.shape[0], mesh.size, -1, *x.shape[2:]), (feed.batch, feed.stop)
        )
        return mapped(state, feed._replace(batch=batch, stop=stop))

    return jit(split_rows)
