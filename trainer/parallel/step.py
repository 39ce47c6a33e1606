"""The training step: pure, jitted, data-parallel.

One dispatch, a call of the compiled program, does K optimizer steps. In each of them

1. every device computes sums over its own rows of the batch: gradients, losses, counts;
2. one all-reduce adds these sums up over the devices;
3. every device divides by the number of examples and applies the same update to its own copy of
   the weights.

Because sums and counts travel, and not means, a short, masked batch weighs by its examples.
"""

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
from trainer.models import mlp
from trainer.parallel.compiler import CPU_STEP, StepOptions, XlaOptions
from trainer.parallel.mesh import AXIS, replicated
from trainer.tasks.classification import BatchGradients, Objective, Sums, batch_gradients


class TrainState(NamedTuple):
    """Everything that training changes; every device holds all of it."""

    weights: mlp.Weights
    optim_state: sgd.State
    step: jax.Array  # () int32: optimizer steps done


class Optimizer(NamedTuple):
    """The parameters of an update, except the learning rate, which enters the step as a value."""

    momentum: float
    nesterov: bool
    skip_nonfinite: bool  # True: drop a non-finite update and continue; False: change nothing more


class Shards(NamedTuple):
    """How a batch is split: over the devices, and for parallel.virtual_shards."""

    total: int | None  # virtual shards of the whole batch; None: no virtual shards
    local: int  # virtual shards on each device
    axis: str | None  # of the mesh, to sum over; None: there is one device


class DispatchInputs(NamedTuple):
    """The inputs of K steps, on the devices; sharded along dim 1, or replicated."""

    batch: Superbatch  # images (K, global_batch, pixels), labels, mask (K, global_batch); sharded
    stop_votes: jax.Array  # (K, devices) uint8: 1 if its process has to stop; sharded
    lrs: jax.Array  # (K,) float32; replicated
    steps: jax.Array  # (K,) int32: optimizer steps done before each; replicated


class StepMetrics(NamedTuple):
    """The metrics of K steps, packed into one array: each further array is a copy more."""

    packed: jax.Array  # (K, 5) float32, the same on every device; the columns are named below

    @property
    def sums(self) -> Sums:
        """(K,) each; zero where a step was not finite."""
        return Sums(*(self.packed[:, column] for column in range(3)))

    @property
    def finite(self) -> jax.Array:
        """(K,) bool: whether the loss was finite, and the bound on the gradients."""
        return self.packed[:, 3] != 0

    @property
    def stop_votes(self) -> jax.Array:
        """(K,): the number of devices whose process has to stop."""
        return self.packed[:, 4]


TrainStep = Any  # jitted: (TrainState, DispatchInputs) -> (TrainState, StepMetrics)


def new_state(init_weights: Callable[[jax.Array], mlp.Weights], key: jax.Array) -> TrainState:
    """Return the state before the first step. Pure."""
    weights = init_weights(key)
    return TrainState(weights, sgd.init(weights), jnp.zeros((), jnp.int32))


def init_state(
    init_weights: Callable[[jax.Array], mlp.Weights], key: jax.Array, mesh: Mesh
) -> TrainState:
    """Compute the state before the first step directly on every device of the mesh."""
    make = jax.jit(partial(new_state, init_weights), out_shardings=replicated(mesh))
    return make(key)


def make_train_step(
    objective: Objective,
    optimizer: Optimizer,
    mesh: Mesh,
    method: str,
    virtual_shards: int | None = None,
    options: StepOptions = CPU_STEP,
    xla_options: XlaOptions | None = None,
) -> TrainStep:
    """Build the program of K optimizer steps: (state, inputs) -> (state, metrics).

    The old state is donated: do not use it again. A step that is not finite changes neither the
    weights nor the optimizer state.

    Args:
        objective: the loss and its parameters.
        optimizer: SGD's parameters.
        mesh: the devices.
        method: "shard_map", or "pmap" for the same results the old way.
        virtual_shards: add up the gradients of this many parts of the batch in a fixed order, for
            the same bits on any number of devices that divides it; None: one part a device.
        options: how the step is written; the results are the same but for rounding.
        xla_options: XLA's compile options.
    """
    local = (virtual_shards or mesh.size) // mesh.size
    shards = Shards(virtual_shards, local, AXIS if mesh.size > 1 else None)
    # Donated, so that the new state is written into the memory of the old one.
    jit = partial(jax.jit, donate_argnums=0, compiler_options=xla_options)

    def steps(state: TrainState, inputs: DispatchInputs) -> tuple[TrainState, StepMetrics]:
        one_step = partial(_one_step, objective, optimizer, shards, options)
        state = _transposed(state, options)
        state, packed = lax.scan(one_step, state, inputs, unroll=options.unroll)
        return _transposed(state, options), StepMetrics(packed)

    if mesh.size == 1:
        return jit(steps)

    whole, rows = PartitionSpec(), PartitionSpec(None, AXIS)
    if method == "shard_map":
        sharded = jax.shard_map(
            steps,
            mesh=mesh,
            in_specs=(whole, DispatchInputs._make([rows, rows, whole, whole])),
            out_specs=(whole, whole),
        )
        return jit(sharded)

    mapped = jax.pmap(
        steps,
        axis_name=AXIS,
        in_axes=(None, DispatchInputs._make([1, 1, None, None])),
        out_axes=(None, None),
        devices=list(mesh.devices.flat),
    )

    def split_rows(state: TrainState, inputs: DispatchInputs) -> tuple[TrainState, StepMetrics]:
        batch, votes = jax.tree.map(
            lambda x: x.reshape(x.shape[0], mesh.size, -1, *x.shape[2:]),
            (inputs.batch, inputs.stop_votes),
        )
        return mapped(state, inputs._replace(batch=batch, stop_votes=votes))

    return jit(split_rows)


def _one_step(
    objective: Objective,
    optimizer: Optimizer,
    shards: Shards,
    options: StepOptions,
    state: TrainState,
    inputs: DispatchInputs,
) -> tuple[TrainState, jax.Array]:
    """Do one optimizer step; runs on every device, on its own rows of the batch.

    Returns the state, and a row of StepMetrics.packed.
    """
    summed, votes = _summed_gradients(state.weights, inputs, objective, shards, options)
    bound, sums = summed.bound, summed.sums
    # Without this barrier XLA's GPU multiplies with the learning rate in a kernel of its own, for
    # which it slices the rate out of the K of them: that keeps the loop over the steps out of the
    # CUDA graph.
    gradients = lax.optimization_barrier(summed.gradients)
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(2 * bound)  # twice: rounding may exceed it
    if optimizer.skip_nonfinite:
        apply, done = finite, state.step + 1
    else:
        # After the first non-finite step the state's count lags behind the inputs' count, so that
        # all later steps of the dispatch change nothing either.
        apply = finite & (state.step == inputs.steps)
        done = state.step + apply.astype(jnp.int32)

    def updated() -> tuple[mlp.Weights, sgd.State]:
        # Divide the learning rate by the number of examples, not every gradient: the velocity holds
        # the product of both anyway, and that division would be one more pass over memory.
        lr = inputs.lrs / sums.examples
        updates, optim_state = sgd.step(
            gradients, state.optim_state, lr, optimizer.momentum, optimizer.nesterov
        )
        return sgd.apply_gradients(updates, state.weights), optim_state

    before = (state.weights, state.optim_state)
    if options.branch:
        weights, optim_state = lax.cond(apply, updated, lambda: before)
    else:
        weights, optim_state = jax.tree.map(partial(jnp.where, apply), updated(), before)
    # Without this barrier, and with several steps in one body of the loop (unroll), XLA computes
    # the update once for the next step and once to keep it, and may round the two differently.
    state = lax.optimization_barrier(TrainState(weights, optim_state, done))
    metrics = [*jnp.where(finite, jnp.stack(sums), 0), finite.astype(jnp.float32), votes]
    return state, jnp.stack(metrics)


def _summed_gradients(
    weights: mlp.Weights,
    inputs: DispatchInputs,
    objective: Objective,
    shards: Shards,
    options: StepOptions,
) -> tuple[BatchGradients, jax.Array]:
    """Sum gradients, metrics and stop votes over all devices: the one all-reduce of a step."""
    if shards.axis is not None:
        # Differentiate with respect to this device's own copy of the weights. With respect to
        # shared weights jax would add the gradients up over the devices by itself, and the sum
        # below would count them N times.
        weights = lax.pcast(weights, shards.axis, to="varying")

    def gradients_of(batch: Superbatch) -> BatchGradients:
        if not options.transpose_last_layer:
            return batch_gradients(weights, batch, objective)
        # The weights are transposed here, see _transposed: turn them for the forward pass, and the
        # gradient back. XLA folds both into the matrix products.
        result = batch_gradients(mlp.transpose_last_layer(weights), batch, objective)
        return result._replace(gradients=mlp.transpose_last_layer(result.gradients))

    votes = jnp.sum(inputs.stop_votes.astype(jnp.float32))
    if shards.total is None:
        return _sum_over_devices((gradients_of(inputs.batch), votes), shards)

    # Virtual shards. Floating-point sums depend on their order, so devices must not add up what is
    # theirs first. Instead every shard has a row of its own in an array of all shards, in which
    # each device leaves the others' rows zero: adding the devices up is exact, whatever the order.
    # Then every device adds the rows in the same fixed order.
    rows = jax.tree.map(lambda x: x.reshape(shards.local, -1, *x.shape[1:]), inputs.batch)
    each = lax.map(gradients_of, rows)

    def among_all_shards(x: jax.Array) -> jax.Array:
        if shards.axis is None:
            return x
        empty = jnp.zeros((shards.total, *x.shape[1:]), x.dtype)
        first = lax.axis_index(shards.axis) * shards.local
        varying = lax.pcast(empty, shards.axis, to="varying")
        return lax.dynamic_update_slice_in_dim(varying, x, first, axis=0)

    each, votes = _sum_over_devices((jax.tree.map(among_all_shards, each), votes), shards)
    return jax.tree.map(lambda x: reduce(jnp.add, list(x)), each), votes


def _sum_over_devices(tree: Any, shards: Shards) -> Any:
    """Add a pytree of float32 arrays up over the devices, as ONE flat array.

    gloo, on CPUs, sends several arrays one after the other, each with a latency of its own. For a
    single device do nothing: XLA would copy all of it.
    """
    if shards.axis is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, shards.axis))


def _transposed(state: TrainState, options: StepOptions) -> TrainState:
    """Transpose the last kernel and its velocity, or back, where the options say so.

    While steps run, they are kept as (classes, features): see mlp.transpose_last_layer.
    """
    if options.transpose_last_layer:
        velocities = cast(mlp.Weights, state.optim_state.velocities)
        state = TrainState(
            mlp.transpose_last_layer(state.weights),
            sgd.State(mlp.transpose_last_layer(velocities)),
            state.step,
        )
    # The barrier keeps XLA from looking through the transposition where the loop has one step only:
    # K steps in one dispatch must give the same bits as K dispatches of one step.
    return lax.optimization_barrier(state)
