"""parallel.shard_state: devices share the state, and each holds a part of every large leaf.

With "optimizer" they share what the optimizer keeps and the average of the weights (ZeRO stage 1),
with "all" also the weights (ZeRO stage 3, FSDP). A leaf is split along its largest dimension that
the number of shards divides. A leaf without one, and a small one, is whole on every device.
"""

from collections.abc import Sequence
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trainer.tasks.task import Weights

State = Any  # a TrainState
Dims = Any  # a pytree of ints: along which dimension each leaf is split, or WHOLE
WHOLE = -1
# A leaf with a smaller share of all weights stays whole: splitting saves nothing, and each split
# leaf of the weights takes part in a message of its own.
SMALL = 1 / 4096


class Sharing(NamedTuple):
    """How the devices share the state, within a program of the mesh."""

    dims: Dims  # of the weights, and of all that has their shapes
    axis: str  # of the mesh: the devices that share one copy of the state
    devices: int  # along it
    packed: bool  # send all leaves as one array: fewer messages, more copies in memory
    reduce_dtype: Any  # in which gradients are sent


def sharing(
    weights: Weights, mesh: Mesh, reduce_dtype: str = "float32", *, packed: bool = False
) -> Sharing | None:
    """Return how the devices of a mesh share a state; None: its last axis has one device.

    Args:
        weights: their shapes.
        mesh: the devices; those along its last axis share one copy.
        reduce_dtype: in which gradients are sent.
        packed: see Sharing.
    """
    axis = mesh.axis_names[-1]
    if (count := mesh.shape[axis]) == 1:
        return None
    return Sharing(_dims(weights, weights, count), axis, count, packed, jnp.dtype(reduce_dtype))


def of_state(state: State, mesh: Mesh, shard_state: str) -> State:
    """Return the NamedSharding of each leaf of a state, given their shapes."""
    of = partial(_shardings, weights=state.weights, mesh=mesh)
    shared = shard_state != "none"
    return state._replace(
        weights=of_weights(state.weights, mesh, shard_state),
        optim_state=of(state.optim_state, split=shared),
        step=of(state.step, split=False),
        ema=of(state.ema, split=shared),
    )


def of_weights(weights: Weights, mesh: Mesh, shard_state: str) -> Weights:
    """Return the NamedSharding of each leaf of the weights, given their shapes."""
    return _shardings(weights, weights, mesh, shard_state == "all")


def _shardings(tree: Any, weights: Weights, mesh: Mesh, split: bool) -> Any:
    axis = mesh.axis_names[-1]

    def of_leaf(dim: int) -> NamedSharding:
        spec = PartitionSpec() if dim == WHOLE else PartitionSpec(*[None] * dim, axis)
        return NamedSharding(mesh, spec)

    return jax.tree.map(of_leaf, _dims(tree, weights, mesh.shape[axis] if split else 1))


def specs(shardings: Any) -> Any:
    """Return the PartitionSpec of each leaf, a NamedSharding."""
    return jax.tree.map(lambda sharding: sharding.spec, shardings)


def is_whole(tree: Any) -> bool:
    """Return whether every device holds all of every array; of arrays, or of their shardings."""
    return all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree))


def whole_arrays(tree: Any) -> Any:
    """Return whole arrays on every device, given arrays that devices share; not within a program.

    All processes have to call this together.
    """
    if is_whole(tree):
        return tree
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    return _gatherer(NamedSharding(mesh, PartitionSpec()))(tree)


@cache
def _gatherer(everywhere: NamedSharding) -> Any:
    return jax.jit(lambda tree: tree, out_shardings=everywhere)


def to_host(tree: Any, *, keep: bool = True) -> Any:
    """Return whole numpy arrays, one leaf after the other; as `whole_arrays`.

    A process that does not `keep` them takes part, and gets None.
    """

    def one(leaf: jax.Array) -> Any:
        whole = whole_arrays(leaf).addressable_data(0)
        return jax.device_get(whole) if keep else None

    return jax.tree.map(one, tree)


def own_parts(tree: Weights, how: Sharing) -> Weights:
    """Return this device's parts of whole leaves."""
    index = lax.axis_index(how.axis)

    def part(leaf: jax.Array, dim: int) -> jax.Array:
        if dim == WHOLE:
            return leaf
        rows = leaf.shape[dim] // how.devices
        return lax.dynamic_slice_in_dim(leaf, index * rows, rows, dim)

    return jax.tree.map(part, tree, how.dims)


def gathered(tree: Weights, how: Sharing) -> Weights:
    """Return whole leaves, of which each device gives its part."""
    if how.packed:
        return _packed(jnp.ravel, partial(lax.all_gather, axis_name=how.axis), tree, how)
    return jax.tree.map(partial(gathered_leaf, how.axis, how.reduce_dtype), how.dims, tree)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def gathered_leaf(axis: str, reduce_dtype: Any, dim: int, leaf: jax.Array) -> jax.Array:
    """Return a whole leaf, of which each device gives its part.

    Its gradient is that of the part, added up over the devices of the axis.
    """
    return leaf if dim == WHOLE else lax.all_gather(leaf, axis, axis=dim, tiled=True)


def _gathered(axis: str, reduce_dtype: Any, dim: int, leaf: jax.Array) -> tuple[jax.Array, None]:
    return gathered_leaf(axis, reduce_dtype, dim, leaf), None


def _summed(axis: str, reduce_dtype: Any, dim: int, _: None, whole: jax.Array) -> tuple[jax.Array]:
    return (_summed_part(axis, reduce_dtype, dim, whole).astype(whole.dtype),)


gathered_leaf.defvjp(_gathered, _summed)


def _summed_part(axis: str, reduce_dtype: Any, dim: int, whole: jax.Array) -> jax.Array:
    if dim == WHOLE:
        return whole
    sent = whole.astype(reduce_dtype)
    return lax.psum_scatter(sent, axis, scatter_dimension=dim, tiled=True)


def summed_parts(tree: Weights, how: Sharing) -> Weights:
    """Add split leaves up over the devices of the axis; each gets its part of the sum.

    They are sent, and returned, in reduce_dtype. Leaves that are not split are returned as they
    are, not summed.
    """
    if not how.packed:
        return jax.tree.map(partial(_summed_part, how.axis, how.reduce_dtype), how.dims, tree)

    def scatter(rows: jax.Array) -> jax.Array:
        return lax.psum_scatter(rows.astype(how.reduce_dtype), how.axis, scatter_dimension=0)

    return _packed(lambda leaf: leaf.reshape(how.devices, -1), scatter, tree, how)


def _packed(flat: Any, send: Any, tree: Weights, how: Sharing) -> Weights:
    """Send all split leaves as one array, each with the dimension that is split as its first.

    `flat` brings a leaf to (elements,), or to (devices, elements); `send` exchanges them.
    """
    split, whole = split_leaves(tree, how)
    dims = [dim for dim in jax.tree.leaves(how.dims) if dim != WHOLE]
    turned = [jnp.moveaxis(leaf, dim, 0) for leaf, dim in zip(split, dims, strict=True)]
    sent = send_as_one([flat(leaf) for leaf in turned], send)
    leaves = [
        jnp.moveaxis(result.reshape(-1, *leaf.shape[1:]), 0, dim)
        for result, leaf, dim in zip(sent, turned, dims, strict=True)
    ]
    return merged_leaves(leaves, whole, how)


def send_as_one(arrays: Sequence[jax.Array], send: Any) -> list[jax.Array]:
    """Return what `send` makes of the arrays, all of a dtype concatenated along the last dim.

    gloo, on CPUs, sends several arrays one after the other, each with a latency of its own.
    """
    sent = [*arrays]
    for dtype in dict.fromkeys(array.dtype for array in arrays):
        chosen = [i for i, array in enumerate(arrays) if array.dtype == dtype]
        joined = send(jnp.concatenate([arrays[i] for i in chosen], axis=-1))
        ends = np.cumsum([arrays[i].shape[-1] for i in chosen])
        for i, part in zip(chosen, jnp.split(joined, ends[:-1], axis=-1), strict=True):
            sent[i] = part
    return sent


def split_leaves(tree: Weights, how: Sharing) -> tuple[list[Any], list[Any]]:
    """Return the leaves that are split, and those that are whole."""
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(how.dims), strict=True))
    return [leaf for leaf, dim in pairs if dim != WHOLE], [x for x, dim in pairs if dim == WHOLE]


def merged_leaves(split: Sequence[Any], whole: Sequence[Any], how: Sharing) -> Weights:
    """Undo split_leaves."""
    of_kind = {True: iter(whole), False: iter(split)}
    return jax.tree.map(lambda dim: next(of_kind[dim == WHOLE]), how.dims)


def global_norm(tree: Weights, how: Sharing) -> jax.Array:
    """Return the root of the sum of squares over whole leaves, of which devices hold parts; ()."""
    split, whole = split_leaves(jax.tree.map(lambda x: jnp.sum(jnp.square(x)), tree), how)
    return jnp.sqrt(lax.psum(sum(split), how.axis) + sum(whole))


def _dims(tree: Any, weights: Weights, count: int) -> Dims:
    """Return along which dimension `count` devices split each leaf: as a weight of its shape."""
    smallest = SMALL * sum(prod(leaf.shape) for leaf in jax.tree.leaves(weights))

    def dim_of(leaf: Any) -> int:
        dims = [dim for dim, size in enumerate(leaf.shape) if size and size % count == 0]
        if count == 1 or not dims or prod(leaf.shape) < smallest:
            return WHOLE
        return max(dims, key=lambda dim: leaf.shape[dim])

    return jax.tree.map(dim_of, tree)
