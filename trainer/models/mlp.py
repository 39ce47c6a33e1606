"""The multilayer perceptron: init(key, ...) makes weights, fwd(x, weights) takes ONE image.

Below them is what makes its training fast, `gradients` and `transpose_last_layer`: both only
change how a result is computed, never what it is.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import glorot_uniform, he_normal

from trainer.functional import linear
from trainer.models import bfloat16

INITIALIZERS = {"he_normal": he_normal, "glorot_uniform": glorot_uniform}

# How the float32 factors of a matrix product are multiplied; the sums are float32 in any case. By
# default a GPU would round them to TensorFloat-32.
PRECISIONS: dict[str, lax.PrecisionLike] = {
    "float32": lax.Precision.HIGHEST,
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "bfloat16": bfloat16.ON_GPU,
}

Weights = list[linear.Weights]
Aux = TypeVar("Aux")  # a pytree of arrays


def init(
    key: jax.Array,
    in_features: int,
    hidden_sizes: Sequence[int],
    num_classes: int,
    kernel_initializer: str,
) -> Weights:
    """Draw the weights of all layers; the key is split into one key a layer.

    Returns one linear.Weights a layer, float32, the kernels of shapes (in_features, hidden[0]),
    (hidden[0], hidden[1]), ..., (hidden[-1], num_classes); biases start at zero.
    """
    sizes = [in_features, *hidden_sizes, num_classes]
    keys = jax.random.split(key, len(sizes) - 1)
    initializer = INITIALIZERS[kernel_initializer]()
    return [
        linear.init(key, *in_out, kernel_initializer=initializer)
        for key, in_out in zip(keys, pairwise(sizes), strict=True)
    ]


def leaves(weights: Weights) -> Iterator[tuple[int, str, Any]]:
    """Yield each layer's number, from 0, and the name and the value of each of its arrays."""
    for index, layer in enumerate(weights):
        for name, leaf in layer._asdict().items():
            yield index, name, leaf


def activations(x: jax.Array, weights: Weights, precision: str = "float32") -> list[jax.Array]:
    """Return the input of every layer, beginning with the image (pixels,), and the logits.

    All are float32; the precision is a key of PRECISIONS. In bfloat16 the image may be a batch
    (rows, pixels), for which biases are (rows, features).
    """

    def fwd(x: jax.Array, layer: linear.Weights) -> jax.Array:
        if precision == "bfloat16":
            return bfloat16.product(x, layer.kernel) + layer.bias
        return linear.fwd(x, layer, precision=PRECISIONS[precision])

    *hidden, last = weights
    inputs = [x]
    for layer in hidden:
        inputs.append(jax.nn.relu(fwd(inputs[-1], layer)))
    return [*inputs, fwd(inputs[-1], last)]


def fwd(x: jax.Array, weights: Weights, precision: str = "float32") -> jax.Array:
    """Map one image (pixels,), float32, to logits (classes,), float32.

    The precision is a key of PRECISIONS.
    """
    return activations(x, weights, precision)[-1]


def gradients(
    weights: Weights,
    x: jax.Array,
    loss: Callable[[jax.Array], tuple[jax.Array, Aux]],
    precision: str = "float32",
) -> tuple[Weights, jax.Array, Aux]:
    """Differentiate the summed loss of a batch, and bound its gradients without reading them.

    Same result as `jax.grad` over `fwd` on the whole batch. The bound is for the check that no
    gradient is NaN or infinite: reading all gradients once more at every step would cost a pass
    over as much memory as the weights.

    Args:
        weights: of all layers.
        x: (rows, pixels), float32.
        loss: maps logits (rows, classes) to the summed loss, a scalar, and anything else.
        precision: a key of PRECISIONS.

    Returns:
        the gradients; a bound (rows,), float32: but for rounding, no element of the gradients is
        larger than its sum over the rows; what else `loss` returned.
    """
    # The trick: give every row a copy of each bias. A bias is added to the layer's output, so the
    # gradient of row i's bias IS the gradient of the layer's output for row i. Summed over the
    # rows it is the gradient of the real bias, and each row of it is needed for the bound below.
    rows = len(x)
    row_weights = [
        layer._replace(bias=jnp.broadcast_to(layer.bias, (rows, *layer.bias.shape)))
        for layer in weights
    ]
    fwd_rows = partial(activations, precision=precision)
    if precision != "bfloat16":
        in_axes: Any = (0, [linear.Weights(None, 0)] * len(weights))  # type: ignore[arg-type]
        fwd_rows = jax.vmap(fwd_rows, in_axes)

    def summed_loss(row_weights: Weights) -> tuple[jax.Array, tuple[list[jax.Array], Aux]]:
        *inputs, logits = fwd_rows(x, row_weights)
        total, aux = loss(logits)
        return total, (inputs, aux)

    row_gradients, (inputs, aux) = jax.grad(summed_loss, has_aux=True)(row_weights)

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
    return summed, sum(bounds[1:], bounds[0]), aux


def transpose_last_layer(weights: Weights) -> Weights:
    """Transpose the last kernel: (features, classes) to (classes, features), or back.

    Its gradient is a matrix product with few columns, one a class, for which XLA's CPU takes ten
    times as long as for its transpose: 6 % of a step.
    """
    *hidden, last = weights
    return [*hidden, last._replace(kernel=last.kernel.T)]
