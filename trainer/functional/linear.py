"""A fully connected layer of ONE unbatched sample: y = activation(x @ kernel + bias)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jax.nn.initializers import Initializer, glorot_uniform, zeros


class Weights(NamedTuple):
    """Weights of a linear layer."""

    kernel: jax.Array  # (in_features, out_features)
    bias: jax.Array  # (out_features,)


def init(
    key: jax.Array,
    in_features: int,
    out_features: int,
    kernel_initializer: Initializer = glorot_uniform(),  # noqa: B008  (a pure function)
    bias_initializer: Initializer = zeros,
    dtype: jax.typing.DTypeLike = "float32",
) -> Weights:
    """Draw the weights: the key is split in two, the first half makes the kernel.

    Returns a kernel (in_features, out_features) and a bias (out_features,), both of `dtype`.
    """
    kernel_key, bias_key = jax.random.split(key)
    return Weights(
        kernel_initializer(kernel_key, (in_features, out_features), dtype),
        bias_initializer(bias_key, (out_features,), dtype),
    )


def fwd(
    x: jax.Array,
    weights: Weights,
    activation_fn: Callable[[jax.Array], jax.Array] | None = None,
    precision: lax.PrecisionLike = None,
) -> jax.Array:
    """Apply the layer to one sample x (in_features,), giving (out_features,) of the same dtype.

    Callers vmap over batches and cast beforehand.

    Raises:
        TypeError: at trace time, if x is not of rank 1 or a dtype differs from the kernel's.
    """
    kernel, bias = weights
    if x.ndim != 1:
        raise TypeError(
            f"linear.fwd takes one sample of shape ({kernel.shape[0]},), got shape {x.shape}: "
            f"use jax.vmap for batches"
        )
    if not x.dtype == kernel.dtype == bias.dtype:
        raise TypeError(
            f"linear.fwd takes x, kernel and bias of one dtype, got {x.dtype}, {kernel.dtype} and "
            f"{bias.dtype}: cast explicitly"
        )
    y = lax.dot(x, kernel, precision=precision) + bias
    return y if activation_fn is None else activation_fn(y)
