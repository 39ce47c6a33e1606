"""Classifying images: logits, losses, their sums and gradients, all pure functions of a batch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trainer.data.dataset import Dataset, Superbatch
from trainer.functional import losses
from trainer.job.errors import DataError
from trainer.models import mlp

LossFn = Callable[[jax.Array, jax.Array], jax.Array]


class Objective(NamedTuple):
    """Everything besides the weights that turns a batch into losses."""

    loss: str  # a key of LOSSES
    num_classes: int
    pixel_mean: float  # subtracted from the pixels, 0 to 255
    pixel_std: float  # then divides them
    precision: str = "float32"  # of the matrix products: a key of mlp.PRECISIONS


class Sums(NamedTuple):
    """Sums over examples, float32; divide the first two by the third for means."""

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array


class BatchGradients(NamedTuple):
    """Gradients and metrics of a batch, all summed: those of its parts add up to the whole."""

    gradients: mlp.Weights  # of the summed loss
    bound: jax.Array  # (), float32: no element of the gradients is larger, but for rounding
    sums: Sums  # () each


def softmax_crossentropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the stable cross-entropy of one image: logits and one-hot targets, (classes,)."""
    return losses.categorical_crossentropy_from_logits(logits, targets)


def clipped_crossentropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the notebook's loss of one image: logits and one-hot targets, (classes,).

    Softmax, probabilities clipped to [1e-7, 1 - 1e-7], cross-entropy divided by the number of
    classes. A saturated image has no gradient, which makes the training chaotic.
    """
    # Not jax.nn.softmax: in some programs XLA turns its division into a product with 1 / sum, in
    # others not, and the bits would depend on the number of devices.
    exponentials = jnp.exp(logits - lax.stop_gradient(jnp.max(logits)))
    probabilities = jnp.clip(exponentials * (1 / jnp.sum(exponentials)), 1e-7, 1 - 1e-7)
    return losses.categorical_crossentropy(probabilities, targets) / targets.shape[0]


LOSSES: dict[str, LossFn] = {
    "softmax_crossentropy": softmax_crossentropy,
    "clipped_crossentropy": clipped_crossentropy,
}


def pixel_statistics(
    dataset: Dataset, mean: float | None, std: float | None
) -> tuple[float, float]:
    """Return mean and standard deviation of the training pixels, or what is given for them.

    Raises:
        DataError: all pixels are equal.
    """
    if mean is None or std is None:
        # Counted by value: no copy of the images in floating point.
        parts = np.array_split(dataset.train.images, 64)
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        values, weights = np.arange(256.0), counts / np.sum(counts)
        measured = float(values @ weights)
        mean = measured if mean is None else mean
        std = float(np.sqrt((values - measured) ** 2 @ weights)) if std is None else std
        if std == 0:
            raise DataError(
                f"data set {dataset.name}: all pixels of the training images are {measured:g}, so "
                "there is nothing to learn",
                "use the right files, or give data.pixel_mean and data.pixel_std",
            )
    return mean, std


def standardised(images: jax.Array, objective: Objective) -> jax.Array:
    """Return pixels as the model takes them: uint8 to float32, of the same shape."""
    scale = jnp.float32(1 / objective.pixel_std)
    return (images.astype(jnp.float32) - jnp.float32(objective.pixel_mean)) * scale


def batch_logits(weights: mlp.Weights, images: jax.Array, objective: Objective) -> jax.Array:
    """Map images (rows, pixels), uint8, to logits (rows, classes)."""
    fwd = partial(mlp.fwd, precision=objective.precision)
    return jax.vmap(fwd, in_axes=(0, None))(standardised(images, objective), weights)


def batch_losses(logits: jax.Array, labels: jax.Array, objective: Objective) -> jax.Array:
    """Return the loss of each row (rows,), float32, given logits (rows, classes) and labels."""
    targets = jax.nn.one_hot(labels, objective.num_classes, dtype=jnp.float32)
    return jax.vmap(LOSSES[objective.loss])(logits, targets)


def batch_gradients(
    weights: mlp.Weights, batch: Superbatch, objective: Objective
) -> BatchGradients:
    """Differentiate the summed loss of images (rows, pixels), labels and mask (rows,), all uint8.

    Rows whose mask is 0 fill up a short batch: they count as no example and have no gradient.
    """

    def loss(logits: jax.Array) -> tuple[jax.Array, Sums]:
        rows = _row_sums(logits, batch, objective)
        return jnp.sum(rows.loss), rows

    x = standardised(jnp.asarray(batch.images), objective)
    gradients, bounds, rows = mlp.gradients(weights, x, loss, objective.precision)
    bound, *totals = _sum_over_rows(bounds, *rows)
    return BatchGradients(gradients, bound, Sums(*totals))


def _row_sums(logits: jax.Array, batch: Superbatch, objective: Objective) -> Sums:
    """Return what each row of logits (rows, classes) adds to the sums: (rows,), float32."""
    labels, valid = jnp.asarray(batch.labels), jnp.asarray(batch.mask).astype(jnp.float32)
    losses = batch_losses(logits, labels, objective)
    hits = (jnp.argmax(logits, axis=-1) == labels.astype(jnp.int32)).astype(jnp.float32)
    return Sums(losses * valid, hits * valid, valid)


def _sum_over_rows(*vectors: jax.Array) -> tuple[jax.Array, ...]:
    """Add up vectors (rows,), float32, in one reduction: a GPU would start a kernel for each."""

    def add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    zeros = (jnp.float32(0),) * len(vectors)
    return tuple(lax.reduce(vectors, zeros, add, (0,)))
