"""Normalisation of ONE example: layer, group and RMS norm. They hold no running statistics.

Here nothing is divided by an array: in some programs XLA turns such a division into a product with
the reciprocal, in others not, so the bits would depend on the number of devices. Factors are
computed first, one for each group of elements, and multiplied in.

Statistics are float32 at least: in bfloat16 a mean of 1,000 numbers has two digits.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Weights(NamedTuple):
    """Weights of a norm: what the normalised features are multiplied by, and what is added."""

    scale: jax.Array  # (features,)
    bias: jax.Array | None  # (features,); None: nothing is added


def init(features: int, bias: bool = True, dtype: jax.typing.DTypeLike = "float32") -> Weights:
    """Return a scale (features,) of ones and a bias (features,) of zeros, or None, of `dtype`."""
    return Weights(jnp.ones(features, dtype), jnp.zeros(features, dtype) if bias else None)


def layer_norm(x: jax.Array, weights: Weights, epsilon: float = 1e-5) -> jax.Array:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + bias, each over the last axis.

    Takes one example x (..., features), gives the same shape and dtype.

    Raises:
        TypeError: at trace time, if the last axis or the dtype of x is not that of the weights.
    """
    return _normalised("layer_norm", x, weights, epsilon)


def rms_norm(x: jax.Array, weights: Weights, epsilon: float = 1e-6) -> jax.Array:
    """Return x / sqrt(mean(x ** 2) + epsilon) * scale + bias, the mean over the last axis.

    Takes one example x (..., features), gives the same shape and dtype. Usually without bias.

    Raises:
        TypeError: at trace time, if the last axis or the dtype of x is not that of the weights.
    """
    return _normalised("rms_norm", x, weights, epsilon, centre=False)


def group_norm(x: jax.Array, weights: Weights, groups: int, epsilon: float = 1e-5) -> jax.Array:
    """Normalise as layer_norm does, but over all positions and the features of a group at once.

    Takes one example x (..., features), as an image (height, width, channels); neighbouring
    features form a group. Gives the same shape and dtype.

    Raises:
        TypeError: at trace time, if the last axis or the dtype of x is not that of the weights.
        ValueError: the features do not divide into that many groups.
    """
    features = len(weights.scale)
    if features % groups:
        raise ValueError(f"group_norm: {features} features do not divide into {groups} groups")
    shape = (-1, groups, features // groups)
    return _normalised("group_norm", x, weights, epsilon, shape, (0, 2))


def _normalised(
    name: str,
    x: jax.Array,
    weights: Weights,
    epsilon: float,
    shape: tuple[int, ...] | None = None,
    axes: tuple[int, ...] = (-1,),
    centre: bool = True,
) -> jax.Array:
    """Bring x, in a shape, to mean 0, if `centre`, and mean square 1 over axes; scale it, add bias.

    `name` is that of the norm, for messages.
    """
    scale, bias = weights
    if x.ndim == 0 or x.shape[-1:] != scale.shape:
        raise TypeError(
            f"{name} takes one example of shape (..., {scale.shape[0]}), got shape {x.shape}"
        )
    if x.dtype != scale.dtype or (bias is not None and x.dtype != bias.dtype):
        raise TypeError(
            f"{name} takes x, scale and bias of one dtype, got {x.dtype}, {scale.dtype} and "
            f"{None if bias is None else bias.dtype}: cast explicitly"
        )
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    wide = wide.reshape(x.shape if shape is None else shape)
    total = partial(jnp.sum, axis=axes, keepdims=True)
    count = math.prod(wide.shape[axis] for axis in axes)
    # Two passes: mean(x ** 2) - mean(x) ** 2 would lose all digits where the mean is large.
    if centre:
        wide = wide - total(wide) * (1 / count)
    wide = wide * lax.rsqrt(total(wide * wide) * (1 / count) + epsilon)
    y = wide.reshape(x.shape).astype(x.dtype) * jnp.broadcast_to(scale, x.shape)
    return y if bias is None else y + jnp.broadcast_to(bias, x.shape)
