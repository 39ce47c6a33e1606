"""Dropout: set random elements to zero while training."""

import jax
import jax.numpy as jnp


def fwd(x: jax.Array, key: jax.Array | None, rate: float) -> jax.Array:
    """Set each element to 0 with probability `rate`, and multiply the others by 1 / (1 - rate).

    Args:
        x: one example, of any shape and floating dtype.
        key: a random key of this example and layer; None: no dropout, as outside training.
        rate: the share of elements to drop, in [0, 1).

    Returns:
        an array of x's shape and dtype, with x as its mean over keys.

    Raises:
        TypeError: at trace time, if x is not floating.
        ValueError: the rate is not in [0, 1).
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"dropout.fwd takes floating-point numbers, got {x.dtype}: cast explicitly")
    if not 0 <= rate < 1:
        raise ValueError(f"dropout.fwd takes a rate in [0, 1), got {rate}")
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x * (1 / (1 - rate)), 0)
