"""The multilayer perceptron: init(key, ...) makes weights, fwd(x, weights) takes ONE image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import glorot_uniform, he_normal

from trainer.functional import linear, losses

INITIALIZERS = {"he_normal": he_normal, "glorot_uniform": glorot_uniform}

# How the float32 factors of a matrix product are multiplied; the sums are float32 in any case. By
# default a GPU would round them to TensorFloat-32.
PRECISIONS: dict[str, lax.PrecisionLike] = {
    "float32": lax.Precision.HIGHEST,
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "bfloat16": lax.DotAlgorithmPreset.BF16_BF16_F32,
}

Weights = list[linear.Weights]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


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
    """Return one image (pixels,), what each hidden layer makes of it, and the logits (classes,).

    All are float32; the precision is a key of PRECISIONS.
    """
    *hidden, last = weights
    found = [x]
    for layer in hidden:
        found.append(linear.fwd(found[-1], layer, jax.nn.relu, PRECISIONS[precision]))
    return [*found, linear.fwd(found[-1], last, precision=PRECISIONS[precision])]


def fwd(x: jax.Array, weights: Weights, precision: str = "float32") -> jax.Array:
    """Map one image (pixels,), float32, to logits (classes,), float32.

    The precision is a key of PRECISIONS.
    """
    return activations(x, weights, precision)[-1]


def softmax_crossentropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the stable cross-entropy of one image: logits and one-hot targets, (classes,)."""
    return losses.categorical_crossentropy_from_logits(logits, targets)


def clipped_crossentropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the notebook's loss of one image: logits and one-hot targets, (classes,).

    Softmax, probabilities clipped to [1e-7, 1 - 1e-7], cross-entropy divided by the number of
    classes. A saturated image has no gradient, which makes the training chaotic.
    """
    # Not jax.nn.softmax: of the division in it XLA makes a product with 1 / sum in some programs
    # and not in others, and the bits would depend on the number of devices.
    exponentials = jnp.exp(logits - lax.stop_gradient(jnp.max(logits)))
    probabilities = jnp.clip(exponentials * (1 / jnp.sum(exponentials)), 1e-7, 1 - 1e-7)
    return losses.categorical_crossentropy(probabilities, targets) / targets.shape[0]


LOSSES: dict[str, LossFn] = {
    "softmax_crossentropy": softmax_crossentropy,
    "clipped_crossentropy": clipped_crossentropy,
}
