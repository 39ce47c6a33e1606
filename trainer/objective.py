"""What is computed from a batch and the weights: logits, losses and their sums. Pure."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trainer import model
from trainer.stream import Superbatch


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


def batch_logits(weights: model.Weights, images: jax.Array, objective: Objective) -> jax.Array:
    """Return what the model makes of images (rows, pixels), uint8: logits (rows, classes)."""
    scale = jnp.float32(1 / objective.pixel_std)
    pixels = (images.astype(jnp.float32) - jnp.float32(objective.pixel_mean)) * scale
    fwd = partial(model.fwd, precision=objective.precision)
    return jax.vmap(fwd, in_axes=(0, None))(pixels, weights)


def answers(
    weights: model.Weights, batch: Superbatch, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    """Return the loss (rows,) and the logits (rows, classes) of each row, float32."""
    targets = jax.nn.one_hot(batch.labels, objective.num_classes, dtype=jnp.float32)
    logits = batch_logits(weights, jnp.asarray(batch.images), objective)
    return jax.vmap(model.LOSSES[objective.loss])(logits, targets), logits


def batch_sums(
    weights: model.Weights, batch: Superbatch, objective: Objective
) -> tuple[jax.Array, Sums]:
    """Sum over the rows of images (rows, pixels), labels (rows,) and mask (rows,), all uint8.

    Returns the summed loss, to be differentiated, and all sums, scalars.
    """
    losses, logits = answers(weights, batch, objective)
    labels, valid = jnp.asarray(batch.labels), jnp.asarray(batch.mask).astype(jnp.float32)
    loss = jnp.sum(losses * valid)
    hits = (jnp.argmax(logits, axis=-1) == labels.astype(jnp.int32)).astype(jnp.float32)
    return loss, Sums(loss, jnp.sum(hits * valid), jnp.sum(valid))
