"""A convolutional network that recognises digits.

    python -m trainer --config-dir examples/cnn +experiment=cnn

Loss and accuracy are the trainer's own, since the output is one logit a class and the examples have
a field `label`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from trainer.functional import augment as changes
from trainer.functional import conv, dropout, linear, norm


@dataclass
class Options:  # model.options.*
    channels: int = 32  # of the first convolution; the second has twice as many
    features: int = 128  # of the hidden layer
    classes: int = 10
    dropout: float = 0.3
    shift: int = 2  # pixels: move a training image by up to this many in each direction


def init(key, example, options):
    """Return the weights: a dict of the layers."""
    keys = jax.random.split(key, 4)
    height, width = example["image"].shape
    flat = (height // 4) * (width // 4) * 2 * options.channels  # each pooling halves both
    he = jax.nn.initializers.he_normal()
    return {
        "conv1": conv.init(keys[0], 1, options.channels, (3, 3), he),
        "conv2": conv.init(keys[1], options.channels, 2 * options.channels, (3, 3), he),
        "norm": norm.init(flat),
        "hidden": linear.init(keys[2], flat, options.features, he),
        "logits": linear.init(keys[3], options.features, options.classes),
    }


def augment(example, options, key):
    """Return an example as it is trained on: its image is moved at random."""
    return {**example, "image": changes.shift(example["image"], key, options.shift)}


def fwd(example, weights, options, key):
    """Return the logits of one image; key is None outside training."""
    x = jnp.asarray(example["image"]).astype(jnp.float32)[..., None] * (1 / 255)
    x = conv.max_pool(conv.fwd(x, weights["conv1"], jax.nn.relu))
    x = conv.max_pool(conv.fwd(x, weights["conv2"], jax.nn.relu))
    x = norm.layer_norm(x.reshape(-1), weights["norm"])
    x = linear.fwd(x, weights["hidden"], jax.nn.relu)
    return linear.fwd(dropout.fwd(x, key, options.dropout), weights["logits"])
