"""The built-in task: classify images with a multilayer perceptron."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trainer.data.dataset import Bytes
from trainer.job.errors import DataError
from trainer.models import mlp
from trainer.tasks import classification
from trainer.tasks.task import BatchGradients, Example, Key, RowsOf, Task, sum_over_rows


class Objective(NamedTuple):
    """Everything besides the weights that turns images into losses."""

    loss: str  # a key of classification.LOSSES
    num_classes: int
    pixel_mean: float  # subtracted from the pixels, 0 to 255
    pixel_std: float  # then divides them
    precision: str = "float32"  # of the matrix products: a key of mlp.PRECISIONS


def make(
    objective: Objective,
    image_shape: Sequence[int],
    hidden_sizes: Sequence[int],
    initializer: str,
    label_dtype: str = "uint8",
) -> Task:
    """Return the task for images of a shape: fields `image`, uint8, and `label`, whole numbers.

    `initializer` is a key of mlp.INITIALIZERS. The rate of training is that of the hooks at the
    end: the gradients of the whole batch with a cheap bound, and the last kernel transposed.
    """
    pixels = int(np.prod(image_shape))
    loss = partial(classification.loss, function=classification.LOSSES[objective.loss])

    def init(key: jax.Array) -> mlp.Weights:
        return mlp.init(key, pixels, hidden_sizes, objective.num_classes, initializer)

    def fwd(example: Example, weights: mlp.Weights, key: Key = None) -> jax.Array:
        x = standardised(jnp.asarray(example["image"]), objective).reshape(-1)
        return mlp.fwd(x, weights, objective.precision)

    def gradients(weights: mlp.Weights, examples: Example, rows_of: RowsOf) -> BatchGradients:
        def loss(logits: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            rows = rows_of(logits)
            return jnp.sum(rows[0]), rows

        x = standardised(examples["image"].reshape(-1, pixels), objective)
        summed, bounds, rows = mlp.gradients(weights, x, loss, objective.precision)
        bound, *sums = sum_over_rows(bounds, *rows)
        return BatchGradients(summed, bound, tuple(sums))

    def filters(weights: mlp.Weights) -> np.ndarray:
        return np.asarray(weights[0].kernel).T.reshape(-1, *image_shape)

    return Task(
        init=init,
        fwd=fwd,
        loss=loss,
        metrics=classification.metrics,
        metric_names=("accuracy",),
        inputs=("image",),
        example={
            "image": jax.ShapeDtypeStruct(tuple(image_shape), np.uint8),
            "label": jax.ShapeDtypeStruct((), np.dtype(label_dtype)),
        },
        outputs=classification.outputs,
        prediction=classification.prediction,
        gradients=gradients,
        layout=(mlp.transpose_last_layer, mlp.transpose_last_layer),
        filters=filters if len(image_shape) == 2 else None,
    )


def standardised(images: jax.Array, objective: Objective) -> jax.Array:
    """Return pixels as the model takes them: uint8 to float32, of the same shape."""
    scale = jnp.float32(1 / objective.pixel_std)
    return (images.astype(jnp.float32) - jnp.float32(objective.pixel_mean)) * scale


def pixel_statistics(
    name: str, images: Bytes, mean: float | None, std: float | None
) -> tuple[float, float]:
    """Return mean and standard deviation of the training pixels, or what is given for them.

    Raises:
        DataError: all pixels are equal; names the data set.
    """
    if mean is None or std is None:
        # Counted by value, 4 MiB at a time: bincount makes 8 bytes of each pixel.
        parts = np.array_split(images, 1 + (images.nbytes >> 22))
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        values, weights = np.arange(256.0), counts / np.sum(counts)
        measured = float(values @ weights)
        mean = measured if mean is None else mean
        std = float(np.sqrt((values - measured) ** 2 @ weights)) if std is None else std
        if std == 0:
            raise DataError(
                f"data set {name}: all pixels of the training images are {measured:g}, so "
                "there is nothing to learn",
                "use the right files, or give data.pixel_mean and data.pixel_std",
            )
    return mean, std
