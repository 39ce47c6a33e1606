"""The training step: pure, jitted, data-parallel.

One dispatch, a call of the compiled program, does K optimizer steps. In each of them

1. every device computes sums over its own rows of the batch: gradients, losses, counts;
2. one all-reduce adds these sums up over the devices;
3. every device divides by the number of examples and applies the same update to its own copy of
   the weights.

Because sums and counts travel, and not means, a short, masked batch weighs by its examples.

Where devices share the state (parallel.shard_state), a device gets the sum of its own parts of the
gradients in 2, and updates its own parts of the weights in 3; the whole weights are gathered before
1.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from trainer.data.dataset import Superbatch
from trainer.optimizers.optimizer import Update, global_norm, updated
from trainer.parallel import gradients, layout, remat, sharding
from trainer.parallel import mesh as meshes
from trainer.parallel.compiler import CPU_STEP, StepOptions, XlaOptions
from trainer.parallel.gradients import Split
from trainer.parallel.sharding import Sharing
from trainer.tasks.task import BatchGradients, Task, Weights, batch_gradients, keys_of


class TrainState(NamedTuple):
    """Everything that training changes; every device holds all of it, or its parts of it."""

    weights: Weights
    optim_state: Any  # of the optimizer
    step: jax.Array  # () int32: optimizer steps done
    ema: Weights | None = None  # with ema.decay: the average of the weights, float32


class DispatchInputs(NamedTuple):
    """The inputs of K steps, on the devices; sharded along dim 1, or replicated."""

    batch: Superbatch  # fields (K, global_batch, ...), mask (K, global_batch); sharded
    stop_votes: jax.Array  # (K, devices) uint8: 1 if its process has to stop; sharded
    lrs: jax.Array  # (K,) float32; replicated
    steps: jax.Array  # (K,) int32: optimizer steps done before each; replicated
    seeds: jax.Array | None = None  # (K,) uint32, all equal, for random numbers; replicated


class StepMetrics(NamedTuple):
    """The metrics of K steps, packed into one array: each further array is a copy more."""

    packed: jax.Array  # (K, columns) float32, the same on every device: sums, finite, stop votes

    @property
    def sums(self) -> jax.Array:
        """(K, columns): summed loss, metrics, perhaps the gradients' norm, and examples.

        Zero where a step was not finite.
        """
        return self.packed[:, :-2]

    @property
    def finite(self) -> jax.Array:
        """(K,) bool: whether the loss was finite, and the bound on the gradients."""
        return self.packed[:, -2] != 0

    @property
    def stop_votes(self) -> jax.Array:
        """(K,): the number of devices whose process has to stop."""
        return self.packed[:, -1]


TrainStep = Any  # jitted: (TrainState, DispatchInputs) -> (TrainState, StepMetrics)


def new_state(task: Task, update: Update, key: jax.Array) -> TrainState:
    """Return the state before the first step. Pure."""
    return state_of(task.init(key), update)


def state_of(weights: Weights, update: Update) -> TrainState:
    """Return the state before the first step with these weights, as the average begins. Pure."""
    ema = None
    if update.ema_decay is not None:
        # Copied: a step takes the memory of each leaf over, and jit returns an argument as it is.
        ema = jax.tree.map(partial(jnp.array, dtype=jnp.float32), weights)
    return TrainState(weights, update.optimizer.init(weights), jnp.zeros((), jnp.int32), ema)


def init_state(
    task: Task, update: Update, key: jax.Array, mesh: Mesh, shard_state: str = "none"
) -> TrainState:
    """Compute the state before the first step directly on every device of the mesh."""
    make = partial(new_state, task, update)
    shardings = sharding.of_state(jax.eval_shape(make, key), mesh, shard_state)
    return jax.jit(make, out_shardings=shardings)(key)


def make_train_step(
    task: Task,
    update: Update,
    mesh: Mesh,
    method: str,
    virtual_shards: int | None = None,
    accumulate: int = 1,
    options: StepOptions = CPU_STEP,
    xla_options: XlaOptions | None = None,
    shard_state: str = "none",
    reduce_dtype: str = "float32",
    remat_parts: int | None = None,
) -> TrainStep:
    """Build the program of K optimizer steps: (state, inputs) -> (state, metrics).

    The old state is donated: do not use it again. A step that is not finite changes neither the
    weights nor the optimizer state.

    Args:
        task: what is learnt.
        update: how gradients change the weights.
        mesh: the devices.
        method: "shard_map", or "pmap" for the same results the old way.
        virtual_shards: add up the gradients of this many parts of the batch in a fixed order, for
            the same bits on any number of devices that divides it; None: one part a device.
        accumulate: compute the gradients of this many parts of what a device, or a virtual shard,
            has of the batch one after the other: less memory, one update.
        options: how the step is written; the results are the same but for rounding.
        xla_options: XLA's compile options.
        shard_state: what devices share: "none", "optimizer", "all". See sharding.py.
        reduce_dtype: in which gradients are sent.
        remat_parts: cut the forward pass into this many parts; see remat.py.
    """
    if update.ema_decay is not None:  # else XLA rounds the averages of the body's steps differently
        options = options._replace(unroll=1)
    local = (virtual_shards or mesh.size) // mesh.size
    axes = mesh.axis_names if mesh.size > 1 else ()
    shapes = jax.eval_shape(partial(new_state, task, update), jax.ShapeDtypeStruct((2,), "uint32"))
    how = None
    if shard_state != "none":
        # The weights of "all" are gathered leaf by leaf, each where it is used.
        packed = options.packed and shard_state == "optimizer"
        how = sharding.sharing(shapes.weights, mesh, reduce_dtype, packed=packed)
    # Virtual shards are added up whole, in the way of one device.
    shared = how if virtual_shards is None else None
    presummed = shared is not None and shard_state == "all"
    split = Split(
        virtual_shards, local, accumulate, axes, shared, presummed, jnp.dtype(reduce_dtype)
    )
    # With both, each part of the forward pass gathers its weights, and the step gathers none.
    in_parts = presummed and remat_parts is not None
    task = remat.in_parts(task, remat_parts, how if in_parts else None)
    fits = options.layout and shared is None and update.frozen is None
    if not (fits and layout.fits(task, shapes.weights, shapes.optim_state)):
        task = task._replace(layout=None)
    one_step = partial(_one_step, task, update, split, None if in_parts else how, options)
    # Donated, so that the new state is written into the memory of the old one.
    jit = partial(jax.jit, donate_argnums=0, compiler_options=xla_options)

    def steps(state: TrainState, inputs: DispatchInputs) -> tuple[TrainState, StepMetrics]:
        if how is None:
            state = layout.turned(state, task, back=False)
        elif shard_state == "optimizer":  # within the loop every device has its parts alone
            state = state._replace(weights=sharding.own_parts(state.weights, how))
        if options.counted or task.counted:
            state, packed = lax.scan(one_step, state, inputs, unroll=options.unroll)
        else:
            state, packed = _scan_uncounted(one_step, state, inputs)
        if how is None:
            state = layout.turned(state, task, back=True)
        elif shard_state == "optimizer":
            state = state._replace(weights=sharding.gathered(state.weights, how))
        return state, StepMetrics(packed)

    if mesh.size == 1:
        return jit(steps)

    whole, rows = PartitionSpec(), meshes.rows(mesh)
    specs = sharding.specs(sharding.of_state(shapes, mesh, shard_state))
    if method == "shard_map":
        sharded = jax.shard_map(
            steps,
            mesh=mesh,
            in_specs=(specs, DispatchInputs._make([rows, rows, whole, whole, whole])),
            out_specs=(specs, whole),
            # Checked, jax would refuse a user's lax.scan whose carry begins with jnp.zeros.
            # Unchecked, the gradients are those of a device's own rows, which are summed below.
            check_vma=False,
        )
        return jit(sharded)

    mapped = jax.pmap(
        steps,
        axis_name=meshes.AXIS,
        in_axes=(None, DispatchInputs._make([1, 1, None, None, None])),
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


def _scan_uncounted(
    one_step: Callable[[TrainState, DispatchInputs], tuple[TrainState, jax.Array]],
    state: TrainState,
    inputs: DispatchInputs,
) -> tuple[TrainState, jax.Array]:
    """Do what lax.scan does, in a form of which the compiler does not see whether K is 1.

    It dissolves a loop that runs once, and slices of the only element, and fuses what is left in
    another way: one step in a dispatch would not have the bits of several.
    """
    k = len(inputs.lrs)
    if k == 1:
        inputs = jax.tree.map(lambda x: jnp.concatenate([x, x]), inputs)

    def at(i: jax.Array) -> DispatchInputs:
        return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, i, keepdims=False), inputs)

    def body(i: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, packed = carry
        state, row = one_step(state, at(i))
        return state, lax.dynamic_update_index_in_dim(packed, row, i, 0)

    row = jax.eval_shape(one_step, state, at(jnp.int32(0)))[1]
    packed = jnp.zeros((len(inputs.lrs), *row.shape), row.dtype)
    # Steps are counted from 0, so this is K; but the compiler cannot tell.
    count = jnp.minimum(jnp.int32(k), inputs.steps[0] + k)
    state, packed = lax.fori_loop(jnp.int32(0), count, body, (state, packed))
    return state, packed[:k]


def _one_step(
    task: Task,
    update: Update,
    split: Split,
    how: Sharing | None,
    options: StepOptions,
    state: TrainState,
    inputs: DispatchInputs,
) -> tuple[TrainState, jax.Array]:
    """Do one optimizer step; runs on every device, on its own rows of the batch.

    `how` says how the weights are gathered; None: they are whole here, or the task gathers them.
    Returns the state, and a row of StepMetrics.packed.
    """
    # To the task's layout, in which the weights are here, and back from it.
    there, back = task.layout or (_same, _same)
    weights = state.weights
    if how is not None:
        # Behind the barrier XLA compiles the forward pass as that of weights that were never
        # split: virtual shards give the bits of one device.
        weights = lax.optimization_barrier(there(sharding.gathered(weights, how)))

    def gradients_of(batch: Superbatch) -> BatchGradients:
        keys = keys_of(task, inputs.seeds, inputs.steps, batch)
        # Turned for the forward pass, and the gradients into the layout of the weights: XLA folds
        # both into the matrix products.
        result = batch_gradients(task, back(weights), batch, keys)
        sums = there(result.gradients)
        if update.frozen is not None:  # as zeros they are not computed, and are no part of a norm
            sums = jax.tree.map(
                lambda g, fixed: jnp.zeros_like(g) if fixed else g, sums, update.frozen
            )
        if split.presummed and how is not None:
            parts = sharding.summed_parts(sums, how)
            sums = jax.tree.map(lambda part: part.astype(jnp.float32), parts)
        return result._replace(gradients=sums)

    votes = jnp.sum(inputs.stop_votes.astype(jnp.float32))
    summed, votes = gradients.summed(gradients_of, inputs.batch, votes, split)
    sums, examples = summed.sums, summed.sums[-1]
    # Without this barrier XLA's GPU multiplies with the learning rate in a kernel of its own, for
    # which it slices the rate out of the K of them: that keeps the loop over the steps out of the
    # CUDA graph.
    total = added_up = lax.optimization_barrier(summed.gradients)
    if how is not None and split.sharing is None:
        total = sharding.own_parts(back(added_up), how)
    # Twice the bound: rounding may exceed it.
    finite = jnp.isfinite(sums[0]) & jnp.isfinite(2 * summed.bound)
    if update.skip_nonfinite:
        apply, done = finite, state.step + 1
    else:
        # After the first non-finite step the state's count lags behind the inputs' count, so that
        # all later steps of the dispatch change nothing either.
        apply = finite & (state.step == inputs.steps)
        done = state.step + apply.astype(jnp.int32)

    norm = partial(global_norm, added_up)
    if split.sharing is not None:
        norm = partial(sharding.global_norm, added_up, split.sharing)
    before = (state.weights, state.optim_state, state.ema)
    change = partial(updated, update, before, total, norm, examples, inputs.lrs)
    if options.branch:
        weights, optim_state, ema = lax.cond(apply, change, lambda: before)
    else:
        weights, optim_state, ema = jax.tree.map(partial(jnp.where, apply), change(), before)
    # Without this barrier, and with several steps in one body of the loop (unroll), XLA computes
    # the update once for the next step and once to keep it, and may round the two differently.
    state = lax.optimization_barrier(TrainState(weights, optim_state, done, ema))
    if update.log_norm:  # divided by the examples it is that of the mean gradients
        sums = (*sums[:-1], norm(), sums[-1])
    metrics = [*jnp.where(finite, jnp.stack(sums), 0), finite.astype(jnp.float32), votes]
    return state, jnp.stack(metrics)


def averaged(state: TrainState) -> Weights:
    """Return the average of the weights, in their dtypes; without one, the weights."""
    if state.ema is None:
        return state.weights
    return jax.tree.map(lambda a, w: a.astype(w.dtype), state.ema, state.weights)


def _same(weights: Weights) -> Weights:
    return weights
