"""A causal transformer that predicts the next byte of a text: the sources of Python's library.

    python -m trainer --config-dir examples/transformer +experiment=transformer

The model and its data in one file. An example is a window of the text, and the window one byte on.
"""

import sysconfig
from dataclasses import dataclass
from math import log
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trainer import Dataset
from trainer.functional import activation, attention, dropout, embed, linear, losses, norm


@dataclass
class DataOptions:
    """data.options.*."""

    size: int = 2_000_000  # bytes of text, of which the last tenth is the test split
    length: int = 128  # bytes of a window


@dataclass
class Options:
    """model.options.*."""

    layers: int = 3
    features: int = 128
    heads: int = 4
    dropout: float = 0.1


def load(options):
    """Return windows of the text: `bytes` and `next`, uint8 (N, length)."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = np.frombuffer(b"".join(file.read_bytes() for file in files)[: options.size], np.uint8)
    count = (len(text) - 1) // options.length
    read, wanted = (text[i:][: count * options.length].reshape(count, -1) for i in (0, 1))
    train, test = slice(0, count - count // 10), slice(count - count // 10, count)
    splits = ({"bytes": read[part], "next": wanted[part]} for part in (train, test))
    return Dataset("python-library", *splits)


def init(key, example, options):
    """Return the weights: a dict; `layers` is a list with one of each layer."""
    (length,), features = example["bytes"].shape, options.features
    keys = iter(jax.random.split(key, 3 + 3 * options.layers))
    layers = [
        {
            "attention": attention.init(next(keys), features),
            "attention_norm": norm.init(features),
            "wide": linear.init(next(keys), features, 4 * features),
            "narrow": linear.init(next(keys), 4 * features, features),
            "norm": norm.init(features),
        }
        for _ in range(options.layers)
    ]
    return {
        "bytes": embed.init(next(keys), 256, features),
        "positions": embed.init(next(keys), length, features),
        "layers": layers,
        "norm": norm.init(features),
        "logits": linear.init(next(keys), features, 256),
    }


def fwd(example, weights, options, key):
    """Return the logits of the byte after each, (length, 256); key is None outside training."""
    x = embed.fwd(jnp.asarray(example["bytes"]), weights["bytes"]) + weights["positions"].table
    for i, layer in enumerate(weights["layers"]):
        keys = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, i))
        y = norm.layer_norm(x, layer["attention_norm"])
        y = attention.fwd(y, layer["attention"], options.heads, causal=True)
        x = x + dropout.fwd(y, keys[0], options.dropout)
        y = norm.layer_norm(x, layer["norm"])
        y = each(each(y, layer["wide"], activation.gelu), layer["narrow"])
        x = x + dropout.fwd(y, keys[1], options.dropout)
    return each(norm.layer_norm(x, weights["norm"]), weights["logits"])


def each(x, weights, activation_fn=None):
    """Apply a linear layer at each position."""
    return jax.vmap(lambda x: linear.fwd(x, weights, activation_fn))(x)


def loss(logits, example):
    """Return the mean cross-entropy of a byte."""
    wanted = jnp.asarray(example["next"])
    return jnp.mean(jax.vmap(losses.sparse_categorical_crossentropy_from_logits)(logits, wanted))


def metrics(logits, example):
    """Return the same in bits."""
    return {"bits_per_byte": loss(logits, example) * (1 / log(2))}
