"""The gradients of one step: those of the parts of a batch, added up, over the devices too."""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from trainer.data.dataset import Superbatch
from trainer.tasks.task import BatchGradients

GradientsOf = Callable[[Superbatch], BatchGradients]  # fields (rows, ...), without the dim K


class Split(NamedTuple):
    """How a batch is split: over the devices, for parallel.virtual_shards, for train.accumulate."""

    shards: int | None  # virtual shards of the whole batch; None: no virtual shards
    local: int  # virtual shards on each device
    accumulate: int  # parts of what a device, or a virtual shard, has of the batch
    axis: str | None  # of the mesh, to sum over; None: there is one device


def summed(
    gradients_of: GradientsOf, batch: Superbatch, votes: jax.Array, split: Split
) -> tuple[BatchGradients, jax.Array]:
    """Sum gradients, metrics and stop votes over all devices: the one all-reduce of a step."""
    if split.shards is None:
        return _sum_over_devices((_accumulated(gradients_of, batch, split), votes), split)

    # Virtual shards. Floating-point sums depend on their order, so devices must not add up what is
    # theirs first. Instead every shard has a row of its own in an array of all shards, in which
    # each device leaves the others' rows zero: adding the devices up is exact, whatever the order.
    # Then every device adds the rows in the same fixed order.
    each = lax.map(lambda rows: _accumulated(gradients_of, rows, split), _parts(batch, split.local))

    def among_all_shards(x: jax.Array) -> jax.Array:
        if split.axis is None:
            return x
        empty = jnp.zeros((split.shards, *x.shape[1:]), x.dtype)
        first = lax.axis_index(split.axis) * split.local
        return lax.dynamic_update_slice_in_dim(empty, x, first, axis=0)

    each, votes = _sum_over_devices((jax.tree.map(among_all_shards, each), votes), split)
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


def _sum_over_devices(tree: Any, split: Split) -> Any:
    """Add a pytree of float32 arrays up over the devices, as ONE flat array.

    gloo, on CPUs, sends several arrays one after the other, each with a latency of its own. For a
    single device do nothing: XLA would copy all of it.
    """
    if split.axis is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, split.axis))
