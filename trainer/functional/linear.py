"""A fully connected layer of ONE unbatched sample, y = activation(x @ kernel + bias).

Below it is the product of float32 matrices whose factors are rounded to bfloat16.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import Initializer, glorot_uniform, zeros

BFLOAT16 = lax.DotAlgorithmPreset.BF16_BF16_F32


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


def bfloat16_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return (rows, in) @ (in, out), or (in,) @ (in, out), all float32.

    The factors are rounded to bfloat16, the sums are float32. A GPU rounds float32 factors by
    itself. A CPU has instructions for bfloat16, but XLA takes them only where both factors ARE
    bfloat16. In the derivatives that autodiff writes down, one of them is not. So they are given
    here. Pass a whole batch to differentiate: vmap would make a kernel's gradient for every row.
    """
    on_gpu = partial(lax.dot, precision=BFLOAT16)
    result: jax.Array = lax.platform_dependent(x, kernel, cpu=_product, default=on_gpu)
    return result


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _dot(_narrow(x), _narrow(kernel), x.ndim - 1, 0)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    narrow = (_narrow(x), _narrow(kernel))
    return _dot(*narrow, x.ndim - 1, 0), narrow


def _backward(
    narrow: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), gradient = narrow, _narrow(gradient)
    rows = jnp.atleast_2d(x), jnp.atleast_2d(gradient)
    return _dot(gradient, kernel, gradient.ndim - 1, 1), _dot(*rows, 0, 0)


_product.defvjp(_forward, _backward)


def _narrow(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16)


def _dot(a: jax.Array, b: jax.Array, dim_of_a: int, dim_of_b: int) -> jax.Array:
    """Multiply matrices, bfloat16, summing over a dim of each; float32."""
    dims = (((dim_of_a,), (dim_of_b,)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
