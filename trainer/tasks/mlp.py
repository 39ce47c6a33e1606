"""The built-in task: classify images with a multilayer perceptron (MLP).

`gradients` and `transpose_last_layer` make its training fast: both only change how a result is
computed, never what it is.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn.initializers import glorot_uniform, he_normal

from trainer.data.rows import Array, parts
from trainer.functional import linear
from trainer.job.errors import DataError
from trainer.tasks import classification
from trainer.tasks.task import Differentiated, Example, Key, Rows, SummedLoss, Task

Weights = list[linear.Weights]
INITIALIZERS = {"he_normal": he_normal, "glorot_uniform": glorot_uniform}

# How the float32 factors of a matrix product are multiplied; the sums are float32 in any case. By
# default a GPU would round them to TensorFloat-32.
PRECISIONS: dict[str, lax.PrecisionLike] = {
    "float32": lax.Precision.HIGHEST,
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "bfloat16": linear.BFLOAT16,
}


class Objective(NamedTuple):
    """Everything besides the weights that turns images into losses."""

    loss: str  # a key of classification.LOSSES
    num_classes: int
    pixel_mean: float  # subtracted from the pixels, 0 to 255
    pixel_std: float  # then divides them
    precision: str = "float32"  # of the matrix products: a key of PRECISIONS


def make(
    objective: Objective,
    image_shape: Sequence[int],
    hidden_sizes: Sequence[int],
    initializer: str,
    label_dtype: str = "uint8",
) -> Task:
    """Return the task for images of a shape: fields `image`, uint8, and `label`, whole numbers.

    The weights are one linear.Weights a layer, float32, the kernels of shapes (pixels, hidden[0]),
    (hidden[0], hidden[1]), ..., (hidden[-1], classes). Biases start at zero, and `initializer`, a
    key of INITIALIZERS, draws the kernels, each with a key of its own.
    """
    pixels = int(np.prod(image_shape))
    sizes = [pixels, *hidden_sizes, objective.num_classes]

    def init(key: jax.Array) -> Weights:
        keys, draw = jax.random.split(key, len(sizes) - 1), INITIALIZERS[initializer]()
        layers = zip(keys, pairwise(sizes), strict=True)
        return [linear.init(key, *in_out, kernel_initializer=draw) for key, in_out in layers]

    def fwd(example: Example, weights: Weights, key: Key = None) -> jax.Array:
        x = standardised(jnp.asarray(example["image"]), objective).reshape(-1)
        return activations(x, weights, objective.precision)[-1]

    def of_batch(weights: Weights, examples: Example, loss: SummedLoss) -> Differentiated:
        x = standardised(examples["image"].reshape(-1, pixels), objective)
        return gradients(x, weights, loss, objective.precision)

    def filters(weights: Weights) -> np.ndarray:
        return np.asarray(weights[0].kernel).T.reshape(-1, *image_shape)

    return Task(
        init=init,
        fwd=fwd,
        loss=partial(classification.loss, function=classification.LOSSES[objective.loss]),
        metrics=classification.metrics,
        metric_names=("accuracy",),
        inputs=("image",),
        example={
            "image": jax.ShapeDtypeStruct(tuple(image_shape), np.uint8),
            "label": jax.ShapeDtypeStruct((), np.dtype(label_dtype)),
        },
        outputs=classification.outputs,
        prediction=classification.prediction,
        gradients=of_batch,
        layout=(transpose_last_layer, transpose_last_layer),
        counted=True,
        filters=filters if len(image_shape) == 2 else None,
    )


def activations(x: jax.Array, weights: Weights, precision: str = "float32") -> list[jax.Array]:
    """Return the input of every layer, beginning with the image (pixels,), and the logits.

    All are float32; the precision is a key of PRECISIONS. In bfloat16 the image may be a batch
    (rows, pixels), for which biases are (rows, features).
    """

    def fwd(x: jax.Array, layer: linear.Weights) -> jax.Array:
        if precision == "bfloat16":
            return linear.bfloat16_product(x, layer.kernel) + layer.bias
        return linear.fwd(x, layer, precision=PRECISIONS[precision])

    *hidden, last = weights
    inputs = [x]
    for layer in hidden:
        inputs.append(jax.nn.relu(fwd(inputs[-1], layer)))
    return [*inputs, fwd(inputs[-1], last)]


def gradients(x: jax.Array, weights: Weights, loss: SummedLoss, precision: str) -> Differentiated:
    """Differentiate the summed loss of images (rows, pixels), float32, and bound its gradients.

    Same result as `jax.grad` over the whole batch. The bound is for the check that no gradient is
    NaN or infinite: reading all gradients once more at every step would cost a pass over as much
    memory as the weights. Arguments and results are those of Task.gradients.
    """
    # The trick: give every row a copy of each bias. A bias is added to the layer's output, so the
    # gradient of row i's bias IS the gradient of the layer's output for row i. Summed over the
    # rows it is the gradient of the real bias, and each row of it is needed for the bound below.
    row_weights = [
        layer._replace(bias=jnp.broadcast_to(layer.bias, (len(x), *layer.bias.shape)))
        for layer in weights
    ]
    fwd_rows = partial(activations, precision=precision)
    if precision != "bfloat16":
        in_axes: Any = (0, [linear.Weights(None, 0)] * len(weights))  # type: ignore[arg-type]
        fwd_rows = jax.vmap(fwd_rows, in_axes)

    def summed_loss(row_weights: Weights) -> tuple[jax.Array, tuple[list[jax.Array], Rows]]:
        *inputs, logits = fwd_rows(x, row_weights)
        total, rows = loss(logits)
        return total, (inputs, rows)

    row_gradients, (inputs, rows) = jax.grad(summed_loss, has_aux=True)(row_weights)

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(x), axis=1)

    # The gradient of a kernel is the sum over the rows of (layer's input) x (output's gradient).
    # So no element is larger than the sum over the rows of the product of these two vectors'
    # norms. With 64 rows the vectors are a quarter of the gradients in size, and still in cache.
    # The 1 is the input that a bias has.
    bounds = [
        (1 + norm(x)) * norm(layer.bias) for x, layer in zip(inputs, row_gradients, strict=True)
    ]
    summed = [layer._replace(bias=jnp.sum(layer.bias, axis=0)) for layer in row_gradients]
    return summed, sum(bounds[1:], bounds[0]), rows


def transpose_last_layer(weights: Weights) -> Weights:
    """Transpose the last kernel: (features, classes) to (classes, features), or back.

    Its gradient is a matrix product with few columns, one a class, for which XLA's CPU takes ten
    times as long as for its transpose: 6 % of a step.
    """
    *hidden, last = weights
    return [*hidden, last._replace(kernel=last.kernel.T)]


def standardised(images: jax.Array, objective: Objective) -> jax.Array:
    """Return pixels as the model takes them: uint8 to float32, of the same shape."""
    scale = jnp.float32(1 / objective.pixel_std)
    return (images.astype(jnp.float32) - jnp.float32(objective.pixel_mean)) * scale


def pixel_statistics(
    name: str, images: Array, mean: float | None, std: float | None
) -> tuple[float, float]:
    """Return mean and standard deviation of the training pixels, or what is given for them.

    Raises:
        DataError: all pixels are equal; names the data set.
    """
    if mean is None or std is None:
        # Counted by value, part by part: bincount makes 8 bytes of each pixel.
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts(images))
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
