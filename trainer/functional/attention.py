"""Attention: multi-head self-attention of ONE sequence, and the scaled dot product in it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import Initializer, glorot_uniform

from trainer.functional import linear
from trainer.functional.activation import softmax


class Weights(NamedTuple):
    """Weights of multi-head self-attention."""

    qkv: linear.Weights  # features -> queries, keys and values, side by side: 3 * features
    output: linear.Weights  # features -> features


def init(
    key: jax.Array,
    features: int,
    kernel_initializer: Initializer = glorot_uniform(),  # noqa: B008  (a pure function)
    dtype: jax.typing.DTypeLike = "float32",
) -> Weights:
    """Draw the weights: the key is split in four, for queries, keys, values and output.

    Returns kernels (features, 3 * features) and (features, features), and biases of zeros, all of
    `dtype`. The number of heads is not a property of the weights.
    """
    query, key_, value, output = (
        linear.init(part, features, features, kernel_initializer, dtype=dtype)
        for part in jax.random.split(key, 4)
    )
    # One matrix product instead of three. Each third is drawn by itself, since an initializer looks
    # at the number of outputs.
    kernels, biases = zip(query, key_, value, strict=True)
    return Weights(linear.Weights(jnp.concatenate(kernels, 1), jnp.concatenate(biases)), output)


def fwd(
    x: jax.Array,
    weights: Weights,
    heads: int,
    causal: bool = False,
    mask: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Let every position of one sequence look at the others.

    Args:
        x: (length, features).
        weights: of x's dtype.
        heads: how many; each gets features / heads of the features.
        causal: a position sees itself and those before it, none after it.
        mask: bool, the keys that may be seen: (length,), by all positions, or (length, length), by
            each. A position that sees nothing gets zeros.
        precision: of the matrix products.

    Returns:
        (length, features) of x's dtype.

    Raises:
        TypeError: at trace time, if x is not of rank 2, a dtype differs from the kernels', or the
            mask is not a bool array of one of these shapes.
        ValueError: the features do not divide into that many heads.
    """
    features = weights.output.kernel.shape[0]
    if x.ndim != 2 or x.shape[1] != features:
        raise TypeError(
            f"attention.fwd takes one sequence of shape (length, {features}), got shape {x.shape}: "
            f"use jax.vmap for batches"
        )
    if features % heads:
        raise ValueError(f"attention.fwd: {features} features do not divide into {heads} heads")

    def project(x: jax.Array, weights: linear.Weights) -> jax.Array:
        return jax.vmap(lambda x: linear.fwd(x, weights, precision=precision))(x)

    # A bias of the keys adds the same number to all scores of a query, which softmax ignores. Its
    # gradient would be rounding alone, which Adam scales up to steps of full size.
    of_query, of_key, of_value = jnp.split(weights.qkv.bias, 3)
    bias = jnp.concatenate([of_query, lax.stop_gradient(of_key), of_value])
    qkv = project(x, weights.qkv._replace(bias=bias)).reshape(len(x), 3, heads, -1)
    seen = dot_product(qkv[:, 0], qkv[:, 1], qkv[:, 2], causal, mask, precision)
    return project(seen.reshape(x.shape), weights.output)


def dot_product(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    causal: bool = False,
    mask: jax.Array | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Return softmax(query @ key / sqrt(features)) @ value for each head.

    Args:
        query: (queries, heads, features).
        key: (keys, heads, features).
        value: (keys, heads, features).
        causal: query i sees keys 0 to i.
        mask: bool, the keys that may be seen: (keys,) or (queries, keys).
        precision: of the matrix products.

    Returns:
        (queries, heads, features) of the same dtype; zeros for a query that sees no key.

    Raises:
        TypeError: at trace time, if ranks or dtypes differ, or the mask is not a bool array of one
            of these shapes.
    """
    arrays = (query, key, value)
    if {x.ndim for x in arrays} != {3} or len({x.dtype for x in arrays}) > 1:
        raise TypeError(
            "attention.dot_product takes query, key and value of shape (length, heads, features) "
            f"and one dtype, got {', '.join(f'{x.dtype}{list(x.shape)}' for x in arrays)}"
        )
    shape = (len(query), len(key))
    if mask is not None and (mask.shape not in (shape, shape[1:]) or mask.dtype != jnp.bool_):
        raise TypeError(
            f"attention.dot_product takes a mask bool{list(shape[1:])} or bool{list(shape)}, got "
            f"{mask.dtype}{list(mask.shape)}"
        )
    # Scale the queries: they are fewer numbers than the scores.
    scores = jnp.einsum("qhd,khd->hqk", query * query.shape[-1] ** -0.5, key, precision=precision)
    # In bfloat16, the sum over many keys would lose the small ones.
    if scores.dtype.itemsize < 4:
        scores = scores.astype(jnp.float32)
    visible = None
    if causal:
        visible = jnp.tril(jnp.ones(shape, jnp.bool_))
    if mask is not None:
        mask = jnp.broadcast_to(mask, shape)
        visible = mask if visible is None else visible & mask
    if visible is not None:
        visible = jnp.broadcast_to(visible, scores.shape)
    attention = softmax(scores, visible).astype(value.dtype)
    return jnp.einsum("hqk,khd->qhd", attention, value, precision=precision)
