"""A causal transformer that predicts the next byte of a text: the sources of Python's library.

A window of the text is an example; every byte but the first is predicted. Your own: data=text.
"""

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trainer import Dataset
from trainer.functional import activation, attention, dropout, embed, linear, losses, norm


@dataclass
class DataOptions:  # data.options.*
    size: int = 1_000_000  # bytes to train on; a tenth as many to test on
    length: int = 64  # bytes of a window


@dataclass
class Options:  # model.options.*
    layers: int = 2
    features: int = 64
    heads: int = 4
    dropout: float = 0.1


def load(options):
    """Return windows `tokens`, uint8 (N, length + 1), as data=text does; the test has own files."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))

    def windows(files, size):
        text = np.frombuffer(b"".join(file.read_bytes() for file in files)[:size], np.uint8)
        every = np.lib.stride_tricks.sliding_window_view(text, options.length + 1)
        return {"tokens": every[:: options.length]}

    train, test = [file for i, file in enumerate(files) if i % 10], files[::10]
    return Dataset("library", windows(train, options.size), windows(test, options.size // 10))


def init(key, example, options):
    width, keys = options.features, iter(jax.random.split(key, 3 + 3 * options.layers))

    def layer():
        return {
            "attention_norm": norm.init(width),
            "attention": attention.init(next(keys), width),
            "norm": norm.init(width),
            "wide": linear.init(next(keys), width, 4 * width),
            "narrow": linear.init(next(keys), 4 * width, width),
        }

    return {
        "bytes": embed.init(next(keys), 256, width),
        "positions": embed.init(next(keys), example["tokens"].shape[0] - 1, width),
        "layers": [layer() for _ in range(options.layers)],
        "norm": norm.init(width),
        "logits": linear.init(next(keys), width, 256),
    }


def fwd(example, weights, options, key):
    """Return the logits of the byte after each, (length, 256); key is None outside training."""
    tokens = jnp.asarray(example["tokens"])[:-1]
    x = embed.fwd(tokens, weights["bytes"]) + weights["positions"].table
    for i, layer in enumerate(weights["layers"]):
        keys = (None, None) if key is None else jax.random.split(jax.random.fold_in(key, i))
        y = norm.layer_norm(x, layer["attention_norm"])
        y = attention.fwd(y, layer["attention"], options.heads, causal=True)
        x = x + dropout.fwd(y, keys[0], options.dropout)
        y = each(norm.layer_norm(x, layer["norm"]), layer["wide"], activation.gelu)
        x = x + dropout.fwd(each(y, layer["narrow"]), keys[1], options.dropout)
    return each(norm.layer_norm(x, weights["norm"]), weights["logits"])


def each(x, weights, activation_fn=None):  # a linear layer at each position
    return jax.vmap(lambda x: linear.fwd(x, weights, activation_fn))(x)


def loss(logits, example):
    wanted = jnp.asarray(example["tokens"])[1:]
    return jnp.mean(jax.vmap(losses.sparse_categorical_crossentropy_from_logits)(logits, wanted))


def metrics(logits, example):
    return {"bits_per_byte": loss(logits, example) * float(1 / np.log(2))}
