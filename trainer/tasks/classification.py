"""What is computed from a batch and the weights: logits, losses and their sums. Pure."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trainer.data.dataset import Superbatch
from trainer.models import mlp


class Sums(NamedTuple):
    """Sums over examples, float32; divide the first two by the third for means."""

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array


class Objective(NamedTuple):
    """What is computed from a batch, besides the weights."""

    loss: str  # a key of model.LOSSES
    num_classes: int
    pixel_mean: float  # subtracted from the pixels, 0..255
    pixel_std: float  # then divides them
    precision: str = "float32"  # of the matrix products: a key of model.PRECISIONS


def standardised(images: jax.Array, objective: Objective) -> jax.Array:
    """Return pixels as the model takes them: uint8 to float32, of the same shape."""
    scale = jnp.float32(1 / objective.pixel_std)
    return (images.astype(jnp.float32) - jnp.float32(objective.pixel_mean)) * scale


def batch_logits(weights: mlp.Weights, images: jax.Array, objective: Objective) -> jax.Array:
    """Return what the model makes of images (rows, pixels), uint8: logits (rows, classes)."""
    fwd = partial(mlp.fwd, precision=objective.precision)
    return jax.vmap(fwd, in_axes=(0, None))(standardised(images, objective), weights)


def batch_losses(logits: jax.Array, labels: jax.Array, objective: Objective) -> jax.Array:
    """Return the loss of each row (rows,), float32, given logits (rows, classes) and labels."""
    targets = jax.nn.one_hot(labels, objective.num_classes, dtype=jnp.float32)
    return jax.vmap(mlp.LOSSES[objective.loss])(logits, targets)


def example_sums(logits: jax.Array, batch: Superbatch, objective: Objective) -> Sums:
    """Return what each row of logits (rows, classes) adds to the sums: (rows,), float32.

    The labels and the mask are (rows,), uint8.
    """
    labels, valid = jnp.asarray(batch.labels), jnp.asarray(batch.mask).astype(jnp.float32)
    losses = batch_losses(logits, labels, objective)
    hits = (jnp.argmax(logits, axis=-1) == labels.astype(jnp.int32)).astype(jnp.float32)
    return Sums(losses * valid, hits * valid, valid)
