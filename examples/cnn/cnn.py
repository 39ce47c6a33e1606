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
    convolutions: int = 2  # each is followed by pooling, which halves the image
    channels: int = 32  # of the first convolution; each further one has twice as many
    features: int = 128  # of the hidden layer
    classes: int = 10
    dropout: float = 0.3
    shift: int = 2  # pixels: move a training image by up to this many in each direction


def init(key, example, options):
    """Return the weights: a dict of the layers."""
    *conv_keys, hidden_key, logits_key = jax.random.split(key, options.convolutions + 2)
    he = jax.nn.initializers.he_normal()
    weights, channels = {}, 1
    height, width = example["image"].shape
    for i, one in enumerate(conv_keys):
        before, channels = channels, options.channels * 2**i
        weights[f"conv{i + 1}"] = conv.init(one, before, channels, (3, 3), he)
        height, width = height // 2, width // 2
    flat = height * width * channels
    return {
        **weights,
        "norm": norm.init(flat),
        "hidden": linear.init(hidden_key, flat, options.features, he),
        "logits": linear.init(logits_key, options.features, options.classes),
    }


def augment(example, options, key):
    """Return an example as it is trained on: its image is moved at random."""
    return {**example, "image": changes.shift(example["image"], key, options.shift)}


def fwd(example, weights, options, key):
    """Return the logits of one image; key is None outside training."""
    x = jnp.asarray(example["image"]).astype(jnp.float32)[..., None] * (1 / 255)
    for i in range(options.convolutions):
        x = conv.max_pool(conv.fwd(x, weights[f"conv{i + 1}"], jax.nn.relu))
    x = norm.layer_norm(x.reshape(-1), weights["norm"])
    x = linear.fwd(x, weights["hidden"], jax.nn.relu)
    return linear.fwd(dropout.fwd(x, key, options.dropout), weights["logits"])
