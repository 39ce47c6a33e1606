"""A network with one hidden layer. All functions are pure and take ONE example."""

from dataclasses import dataclass
from typing import Any

import jax

from trainer.functional import linear

Arrays = dict[str, jax.Array]


@dataclass
class Options:
    """Each is set by model.options.NAME=VALUE."""

    width: int = 128
    classes: int = 10


def init(key: jax.Array, example: Arrays, options: Options) -> Any:
    """Return the weights: float arrays in dicts, lists or tuples; example has shapes and dtypes."""
    first, second = jax.random.split(key)
    return {
        "hidden": linear.init(first, example["image"].size, options.width),
        "output": linear.init(second, options.width, options.classes),
    }


def fwd(example: Arrays, weights: Any, options: Options) -> jax.Array:
    """Return the logits (classes,) of {"image": (rows, columns) uint8, "label": () uint8}."""
    pixels = example["image"].reshape(-1).astype("float32") / 255
    hidden = linear.fwd(pixels, weights["hidden"], jax.nn.relu)
    return linear.fwd(hidden, weights["output"])


# Without loss(output, example), metrics(output, example) and outputs(output), the output is taken
# for logits: cross-entropy, accuracy and probabilities.
