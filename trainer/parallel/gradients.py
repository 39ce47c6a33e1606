"""The gradients of one step: those of the parts of a batch, added up, over the devices too."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from trainer.data.dataset import Superbatch
from trainer.parallel.sharding import (
    Sharing,
    merged_leaves,
    split_leaves,
    summed_parts,
)
from trainer.tasks.task import BatchGradients

GradientsOf = Callable[[Superbatch], BatchGradients]  # fields (rows, ...), without the dim K


class Split(NamedTuple):
    """How a batch is split: over the devices, for parallel.virtual_shards, for train.accumulate."""

    shards: int | None  # virtual shards of the whole batch; None: no virtual shards
    local: int  # virtual shards on each device
    accumulate: int  # parts of what a device, or a virtual shard, has of the batch
    axes: tuple[str, ...]  # of the mesh, to sum over; empty: there is one device
    sharing: Sharing | None = None  # how devices share the gradients; None: all have all of them
    sums_itself: bool = False  # whether gradients_of adds up over the devices that share the state
    reduce_dtype: Any = jnp.float32  # in which gradients are sent

    @property
    def shares_each_part(self) -> bool:
        """Whether every part's gradients are added up over the devices that share the state.

        That keeps the memory of whole gradients to one part.
        """
        return self.sharing is not None and self.sharing.weights


def summed(
    gradients_of: GradientsOf, batch: Superbatch, votes: jax.Array, split: Split
) -> tuple[BatchGradients, jax.Array]:
    """Sum gradients, metrics and stop votes over all devices: the one all-reduce of a step.

    With `split.sharing` each device gets its parts of the gradients, which takes a reduce-scatter
    besides.
    """
    if split.shards is None:
        return _sum_over_devices(_accumulated(gradients_of, batch, split), votes, split)

    # Virtual shards. Floating-point sums depend on their order, so devices must not add up what is
    # theirs first. Instead every shard has a row of its own in an array of all shards, in which
    # each device leaves the others' rows zero: adding the devices up is exact, whatever the order.
    # Then every device adds the rows in the same fixed order.
    each = lax.map(lambda rows: _accumulated(gradients_of, rows, split), _parts(batch, split.local))

    if split.reduce_dtype != jnp.float32:  # also where there is one device, and nothing is sent
        rounded = partial(lax.reduce_precision, exponent_bits=8, mantissa_bits=7)  # bfloat16
        each = each._replace(gradients=jax.tree.map(rounded, each.gradients))

    def among_all_shards(x: jax.Array) -> jax.Array:
        if not split.axes:
            return x
        empty = jnp.zeros((split.shards, *x.shape[1:]), x.dtype)
        first = lax.axis_index(split.axes) * split.local
        return lax.dynamic_update_slice_in_dim(empty, x, first, axis=0)

    each, votes = _sum_over_devices(jax.tree.map(among_all_shards, each), votes, split)
    return jax.tree.map(lambda x: reduce(jnp.add, list(x)), each), votes


def _accumulated(gradients_of: GradientsOf, batch: Superbatch, split: Split) -> BatchGradients:
    """Add up the gradients of parts of a batch one after the other, in the memory of one part."""

    def of_part(part: Superbatch) -> BatchGradients:
        result = gradients_of(part)
        if split.sharing is None or not split.shares_each_part or split.sums_itself:
            return result
        sums = summed_parts(result.gradients, split.sharing)
        return result._replace(gradients=_as(jnp.float32, sums))

    if split.accumulate == 1:
        return of_part(batch)
    parts = _parts(batch, split.accumulate)
    shapes = jax.eval_shape(of_part, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: BatchGradients, part: Superbatch) -> tuple[BatchGradients, None]:
        return jax.tree.map(jnp.add, total, of_part(part)), None

    return lax.scan(add, zeros, parts)[0]


def _parts(batch: Superbatch, count: int) -> Superbatch:
    """Return (rows, ...) as (count, rows / count, ...)."""
    parts: Superbatch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    return parts


def _sum_over_devices(
    result: BatchGradients, votes: jax.Array, split: Split
) -> tuple[BatchGradients, jax.Array]:
    """Add up over the devices; where they share the state, each gets its parts of the gradients."""
    if not split.axes:
        return result, votes
    how, gradients = split.sharing, result.gradients
    if how is None:
        sent = _as(split.reduce_dtype, gradients)
        total = _sum_as_one((sent, result._replace(gradients=None), votes), split.axes)
        gradients, result, votes = total
    else:
        if not split.shares_each_part:
            gradients = summed_parts(gradients, how)
        parts, whole = split_leaves(gradients, how)
        if replicas := tuple(axis for axis in split.axes if axis != how.axis):
            parts = _sum_as_one(_as(split.reduce_dtype, parts), replicas)
        rest = (_as(split.reduce_dtype, whole), result._replace(gradients=None), votes)
        whole, result, votes = _sum_as_one(rest, split.axes)
        gradients = merged_leaves(parts, whole, how)
    return result._replace(gradients=_as(jnp.float32, gradients)), votes


def _sum_as_one(tree: Any, axes: tuple[str, ...]) -> Any:
    """Add a pytree of arrays up over the devices, as ONE flat array of each dtype.

    gloo, on CPUs, sends several arrays one after the other, each with a latency of its own. For a
    single device this is not called: XLA would copy all of it.
    """
    leaves, structure = jax.tree.flatten(tree)
    for dtype in {leaf.dtype: None for leaf in leaves}:
        chosen = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat, unravel = ravel_pytree([leaves[i] for i in chosen])
        for i, leaf in zip(chosen, unravel(lax.psum(flat, axes)), strict=True):
            leaves[i] = leaf
    return jax.tree.unflatten(structure, leaves)


def _as(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
