"""Losses of ONE sample; callers vmap and average."""

import jax
import jax.numpy as jnp


def _check(predictions: jax.Array, targets: jax.Array) -> None:
    if predictions.shape != targets.shape or predictions.dtype != targets.dtype:
        raise TypeError(
            "a loss takes predictions and targets of one shape and dtype, got "
            f"{predictions.dtype}{list(predictions.shape)} and "
            f"{targets.dtype}{list(targets.shape)}: cast or one-hot encode explicitly"
        )


def categorical_crossentropy(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -sum(targets * log(predictions)): no clipping, no averaging.

    Takes probabilities (classes,) and targets (classes,) of one dtype, gives a scalar of it.

    Raises:
        TypeError: at trace time, if shapes or dtypes differ.
    """
    _check(predictions, targets)
    return -jnp.sum(targets * jnp.log(predictions))


def categorical_crossentropy_from_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -sum(targets * log_softmax(logits)), stable for logits of any size.

    Takes logits (classes,) and targets (classes,) of one dtype, gives a scalar of it.

    Raises:
        TypeError: at trace time, if shapes or dtypes differ.
    """
    _check(logits, targets)
    return -jnp.sum(targets * jax.nn.log_softmax(logits))
