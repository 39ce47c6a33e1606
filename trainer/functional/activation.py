"""Activations: pure functions of arrays of any shape."""

import jax
import jax.numpy as jnp
from jax import lax


def gelu(x: jax.Array) -> jax.Array:
    """Return x * Phi(x), Phi being the normal distribution, by its approximation with tanh.

    Takes an array of any shape and floating dtype, gives one of the same shape and dtype.

    Raises:
        TypeError: at trace time, if the dtype is not floating.
    """
    _check("gelu", x)
    return jax.nn.gelu(x, approximate=True)


def softmax(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
    """Return exp(x) / sum(exp(x)) along the last axis.

    Args:
        x: (..., n) of a floating dtype; logits of any size.
        where: bool, of x's shape: elements that count; the others get probability 0. A row in
            which none counts is 0 everywhere.

    Returns:
        probabilities of x's shape and dtype.

    Raises:
        TypeError: at trace time, if x is a scalar or not floating, or `where` is not a bool array
            of x's shape.
    """
    _check("softmax", x)
    if x.ndim == 0:
        raise TypeError("softmax takes an array of rank 1 or more, got a scalar")
    if where is not None and (where.shape != x.shape or where.dtype != jnp.bool_):
        raise TypeError(
            f"softmax takes where as bool{list(x.shape)}, got {where.dtype}{list(where.shape)}"
        )
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    largest = lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    # In a row of -inf alone, -inf - -inf would be NaN, and so would 0 / 0.
    exponentials = jnp.exp(x - jnp.where(jnp.isfinite(largest), largest, 0))
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    total = jnp.where(total == 0, 1, total)
    # Not exponentials / total: in some programs XLA turns the division of an array into a product
    # with 1 / total, in others not, so the bits would depend on the number of devices.
    return exponentials * (1 / total)


def _check(name: str, x: jax.Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} takes floating-point numbers, got {x.dtype}: cast explicitly")
