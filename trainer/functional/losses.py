"""Losses of ONE sample; callers vmap and average."""

import jax
import jax.numpy as jnp


def _check(predictions: jax.Array, targets: jax.Array) -> None:
    if (
        predictions.shape != targets.shape
        or predictions.dtype != targets.dtype
        or not jnp.issubdtype(targets.dtype, jnp.floating)
    ):
        raise TypeError(
            "a loss takes predictions and targets of one shape and floating dtype, got "
            f"{predictions.dtype}{list(predictions.shape)} and "
            f"{targets.dtype}{list(targets.shape)}: cast or one-hot encode explicitly"
        )


def categorical_crossentropy(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -sum(targets * log(predictions)): no clipping, no averaging.

    Takes probabilities (classes,) and targets (classes,) of one dtype, gives a scalar of it.

    Raises:
        TypeError: at trace time, if shapes or dtypes differ or are not floating.
    """
    _check(predictions, targets)
    return -jnp.sum(targets * jnp.log(predictions))


def categorical_crossentropy_from_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return -sum(targets * log_softmax(logits)), stable for logits of any size.

    Takes logits (classes,) and targets (classes,) of one dtype, gives a scalar of it.

    Raises:
        TypeError: at trace time, if shapes or dtypes differ or are not floating.
    """
    _check(logits, targets)
    return -jnp.sum(targets * jax.nn.log_softmax(logits))


def sparse_categorical_crossentropy_from_logits(
    logits: jax.Array, target: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Return -log_softmax(logits)[target], stable for logits of any size.

    Args:
        logits: (classes,) of a floating dtype.
        target: (), the number of the class, of any integer dtype; NaN comes of one that is not in
            [0, classes), so that training stops.
        label_smoothing: in [0, 1]: this share of the target is spread evenly over all classes.

    Returns:
        a scalar of the logits' dtype.

    Raises:
        TypeError: at trace time, if ranks or dtypes are others.
    """
    integer = jnp.issubdtype(target.dtype, jnp.integer)
    if (logits.ndim, target.ndim) != (1, 0) or not (
        integer and jnp.issubdtype(logits.dtype, jnp.floating)
    ):
        raise TypeError(
            "the loss takes logits (classes,) of a floating dtype and an integer target (), got "
            f"{logits.dtype}{list(logits.shape)} and {target.dtype}{list(target.shape)}: use "
            "jax.vmap for several targets"
        )
    classes = jnp.arange(len(logits), dtype=jnp.int32)
    hit = classes == jnp.broadcast_to(target.astype(jnp.int32), classes.shape)
    # Not logits[target]: its gradient is a scatter, which CPUs do one by one. This one is a
    # comparison, which XLA computes together with what follows.
    chosen = jnp.where(jnp.any(hit), jnp.sum(jnp.where(hit, logits, 0)), jnp.nan)
    loss = jax.nn.logsumexp(logits) - (1 - label_smoothing) * chosen
    # Without the condition, a logit of -inf, a class that is ruled out, would make every loss NaN.
    if label_smoothing:
        loss = loss - label_smoothing / len(logits) * jnp.sum(logits)
    return loss


def mean_squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Return mean((predictions - targets) ** 2) over all elements of one example.

    Takes arrays of any one shape and one floating dtype, gives a scalar of it.

    Raises:
        TypeError: at trace time, if shapes or dtypes differ or are not floating.
    """
    _check(predictions, targets)
    return jnp.mean(jnp.square(predictions - targets))


def binary_crossentropy_from_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return mean(-t * log(sigmoid(x)) - (1 - t) * log(1 - sigmoid(x))), stable for any logits x.

    Takes logits and targets t in [0, 1], of any one shape and one floating dtype; gives a scalar of
    it, the mean over all elements of one example.

    Raises:
        TypeError: at trace time, if shapes or dtypes differ or are not floating.
    """
    _check(logits, targets)
    # log(1 - sigmoid(x)) is log_sigmoid(-x).
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.mean(targets * positive + (1 - targets) * negative)
