"""Defaults for classifiers: fwd gives logits (classes,), the field `label` is the class."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from trainer.functional import losses
from trainer.tasks.task import Example, Named

LossFn = Callable[[jax.Array, jax.Array], jax.Array]  # logits, one-hot target: (classes,) both


def clipped_crossentropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the notebook's loss of one example: logits and one-hot targets, (classes,).

    Softmax, probabilities clipped to [1e-7, 1 - 1e-7], cross-entropy divided by the number of
    classes. A saturated example has no gradient, which makes the training chaotic.
    """
    # Not jax.nn.softmax: in some programs XLA turns its division into a product with 1 / sum, in
    # others not, and the bits would depend on the number of devices.
    exponentials = jnp.exp(logits - lax.stop_gradient(jnp.max(logits)))
    probabilities = jnp.clip(exponentials * (1 / jnp.sum(exponentials)), 1e-7, 1 - 1e-7)
    return losses.categorical_crossentropy(probabilities, targets) / targets.shape[0]


LOSSES: dict[str, LossFn] = {
    "softmax_crossentropy": losses.categorical_crossentropy_from_logits,
    "clipped_crossentropy": clipped_crossentropy,
}


def loss(
    logits: jax.Array, example: Example, function: LossFn = LOSSES["softmax_crossentropy"]
) -> jax.Array:
    """Return the loss of one example, a scalar."""
    label = jnp.asarray(example["label"])
    return function(logits, jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype))


def metrics(logits: jax.Array, example: Example) -> Named:
    """Return the accuracy of one example: 1 if the largest logit is that of its label, or 0."""
    label = jnp.asarray(example["label"]).astype(jnp.int32)
    hit = jnp.argmax(logits, axis=-1).astype(jnp.int32) == label
    return {"accuracy": hit.astype(jnp.float32)}


def outputs(logits: jax.Array) -> Named:
    """Return what `predict` and an exported model give for one example: (classes,) both."""
    return {"logits": logits, "probabilities": jax.nn.softmax(logits)}


def prediction(logits: jax.Array) -> Named:
    """Return the class with the largest logit and the probability of it, () both."""
    confidence = jnp.max(jax.nn.softmax(logits, axis=-1), axis=-1)
    return {"class": jnp.argmax(logits, axis=-1).astype(jnp.int32), "confidence": confidence}
