"""The gradients of one step: those of the parts of a batch, added up, over the devices too."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trainer.data.dataset import Superbatch
from trainer.parallel.sharding import (
    Sharing,
    merged_leaves,
    send_as_one,
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
    # Whether gradients_of returns sums over the devices that share the state. Then no more than
    # the gradients of one part are ever whole.
    presummed: bool = False
    reduce_dtype: Any = jnp.float32  # in which gradients are sent


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
    if split.accumulate == 1:
        return gradients_of(batch)
    parts = _parts(batch, split.accumulate)
    shapes = jax.eval_shape(gradients_of, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: BatchGradients, part: Superbatch) -> tuple[BatchGradients, None]:
        return jax.tree.map(jnp.add, total, gradients_of(part)), None

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
    how, whole = split.sharing, result.gradients
    parts: list[Any] = []
    if how is not None:
        sums = whole if split.presummed else summed_parts(whole, how)
        parts, whole = split_leaves(sums, how)
        if replicas := tuple(axis for axis in split.axes if axis != how.axis):
            parts = _sum_as_one(_as(split.reduce_dtype, parts), replicas)
    rest = (_as(split.reduce_dtype, whole), result._replace(gradients=None), votes)
    whole, result, votes = _sum_as_one(rest, split.axes)
    gradients = whole if how is None else merged_leaves(parts, whole, how)
    return result._replace(gradients=_as(jnp.float32, gradients)), votes


def _sum_as_one(tree: Any, axes: tuple[str, ...]) -> Any:
    """Add a pytree of arrays up over the devices, as ONE flat array of each dtype.

    For a single device this is not called: XLA would copy all of it.
    """
    leaves, structure = jax.tree.flatten(tree)
    sums = send_as_one([leaf.ravel() for leaf in leaves], partial(lax.psum, axis_name=axes))
    shaped = [x.reshape(leaf.shape) for x, leaf in zip(sums, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def _as(dtype: Any, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)
