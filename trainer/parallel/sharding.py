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

    weights: bool  # whether the weights are split too, as in "all"
    dims: Dims  # of the weights, and of all that has their shapes
    axis: str  # of the mesh: the devices that share one copy of the state
    devices: int  # along it
    packed: bool  # send all leaves as one array: fewer messages, more copies in memory
    reduce_dtype: Any  # in which gradients are sent


def sharing(
    weights: Weights, mesh: Mesh, shard_state: str, reduce_dtype: str = "float32", *, packed: bool
) -> Sharing | None:
    """Return how the devices of a mesh share the state; None: each holds all of it.

    Args:
        weights: their shapes.
        mesh: the devices; those along its last axis share one copy.
        shard_state: "none", "optimizer" or "all".
        reduce_dtype: in which gradients are sent.
        packed: see Sharing.
    """
    axis = mesh.axis_names[-1]
    count = mesh.shape[axis]
    if shard_state == "none" or count == 1:
        return None
    dims = _dims(weights, weights, count)
    return Sharing(shard_state == "all", dims, axis, count, packed, jnp.dtype(reduce_dtype))


def of_state(state: State, mesh: Mesh, shard_state: str) -> State:
    """Return the NamedSharding of each leaf of a state, given their shapes."""
    whole = jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), state)
    axis = mesh.axis_names[-1]
    if shard_state == "none" or mesh.shape[axis] == 1:
        return whole

    def split(tree: Any) -> Any:
        dims = _dims(tree, state.weights, mesh.shape[axis])
        return jax.tree.map(lambda dim: NamedSharding(mesh, _spec(dim, axis)), dims)

    shared = whole._replace(optim_state=split(state.optim_state), ema=split(state.ema))
    return shared._replace(weights=split(state.weights)) if shard_state == "all" else shared


def specs(shardings: Any) -> Any:
    """Return the PartitionSpec of each leaf, a NamedSharding."""
    return jax.tree.map(lambda sharding: sharding.spec, shardings)


def of_weights(mesh: Mesh, how: Sharing) -> Weights:
    """Return the NamedSharding of each leaf of weights that devices share."""
    return jax.tree.map(lambda dim: NamedSharding(mesh, _spec(dim, how.axis)), how.dims)


def _spec(dim: int, axis: str) -> PartitionSpec:
    return PartitionSpec(*[None] * dim, axis) if dim != WHOLE else PartitionSpec()


def is_whole(tree: Any) -> bool:
    """Return whether every device holds all of every array."""
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
    if not how.packed:
        gather_one = partial(gathered_leaf, how.axis, how.reduce_dtype)
        return jax.tree.map(lambda leaf, dim: gather_one(dim, leaf), tree, how.dims)

    def gather(parts: jax.Array) -> jax.Array:
        return lax.all_gather(parts, how.axis, axis=0, tiled=False)

    return _as_one(lambda part, dim: _first(part, dim).ravel(), gather, _joined, tree, how)


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


def whole_shapes(tree: Weights, how: Sharing) -> Weights:
    """Return the shapes and dtypes of whole leaves, given those of the parts."""

    def whole(leaf: Any, dim: int) -> jax.ShapeDtypeStruct:
        sizes = [size * how.devices if i == dim else size for i, size in enumerate(leaf.shape)]
        return jax.ShapeDtypeStruct((*sizes,), leaf.dtype)

    return jax.tree.map(whole, tree, how.dims)


def summed_parts(tree: Weights, how: Sharing) -> Weights:
    """Add split leaves up over the devices of the axis; each gets its part of the sum.

    They are sent, and returned, in reduce_dtype. Leaves that are not split are returned as they
    are, not summed.
    """
    if not how.packed:
        return jax.tree.map(
            lambda leaf, dim: (
                leaf if dim == WHOLE else _summed_part(how.axis, how.reduce_dtype, dim, leaf)
            ),
            tree,
            how.dims,
        )

    def scatter(rows: jax.Array) -> jax.Array:
        sent = rows.astype(how.reduce_dtype)
        return lax.psum_scatter(sent, how.axis, scatter_dimension=0, tiled=False)

    def rows(leaf: jax.Array, dim: int) -> jax.Array:
        return _first(leaf, dim).reshape(how.devices, -1)

    def back(flat: jax.Array, leaf: jax.Array, dim: int, how: Sharing) -> jax.Array:
        shape = _first(leaf, dim).shape
        return _back(flat.reshape(shape[0] // how.devices, *shape[1:]), dim)

    return _as_one(rows, scatter, back, tree, how)


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
    """Return along which dimension each leaf is split: what has a weight's shape, as that is."""
    smallest = SMALL * sum(prod(leaf.shape) for leaf in jax.tree.leaves(weights))

    def dim_of(leaf: Any) -> int:
        shape = leaf.shape
        dims = [dim for dim, size in enumerate(shape) if size and size % count == 0]
        if not dims or prod(shape) < smallest:
            return WHOLE
        return max(dims, key=lambda dim: shape[dim])

    return jax.tree.map(dim_of, tree)


def _as_one(flat: Any, send: Any, back: Any, tree: Weights, how: Sharing) -> Weights:
    """Send all split leaves of a dtype as one array, concatenated along the last dimension.

    gloo, on CPUs, sends several arrays one after the other, each with a latency of its own.
    """
    leaves, structure = jax.tree.flatten(tree)
    dims = jax.tree.leaves(how.dims)
    for dtype in sorted({leaf.dtype for leaf in leaves}, key=str):
        chosen = [i for i, leaf in enumerate(leaves) if dims[i] != WHOLE and leaf.dtype == dtype]
        if not chosen:
            continue
        pieces = [flat(leaves[i], dims[i]) for i in chosen]
        sent, first = send(jnp.concatenate(pieces, axis=-1)), 0
        for i, piece in zip(chosen, pieces, strict=True):
            last = first + piece.shape[-1]
            leaves[i] = back(sent[..., first:last], leaves[i], dims[i], how)
            first = last
    return jax.tree.unflatten(structure, leaves)


def _joined(rows: jax.Array, part: jax.Array, dim: int, how: Sharing) -> jax.Array:
    """Return a whole leaf from the parts (devices, elements) of all devices."""
    shape = _first(part, dim).shape
    return _back(rows.reshape(how.devices * shape[0], *shape[1:]), dim)


def _first(leaf: jax.Array, dim: int) -> jax.Array:
    return jnp.moveaxis(leaf, dim, 0)


def _back(leaf: jax.Array, dim: int) -> jax.Array:
    return jnp.moveaxis(leaf, 0, dim)
