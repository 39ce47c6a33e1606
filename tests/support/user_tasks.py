"""Small tasks as users write them, one of each kind, and runs of them."""

from __future__ import annotations

import contextlib
from pathlib import Path

from support.trained_runs import train_here

# A classifier of images, with the defaults for loss, metrics and outputs.
DIGITS = """
from dataclasses import dataclass
import jax
import jax.numpy as jnp

@dataclass
class Options:
    width: int = 4

def init(key, example, options):
    pixels = example["image"].shape[0] * example["image"].shape[1]
    scale = jnp.ones(())
    return {"scale": scale, "layers": [
        {"kernel": jax.random.normal(key, (pixels // 16, 10)) * 0.05, "bias": jnp.zeros(10)}]}

def fwd(example, weights, options):
    pixels = jnp.asarray(example["image"]).astype(jnp.float32) / 255 * weights["scale"]
    pooled = pixels.reshape(7, 4, 7, 4).mean(axis=(1, 3)).reshape(-1)
    layer = weights["layers"][0]
    return pooled @ layer["kernel"] + layer["bias"]
"""
# Regression: two inputs, data and reader of files of its own, a loss and nothing else.
PRICES = """
from dataclasses import dataclass
import json
import jax
import jax.numpy as jnp
import numpy as np
from trainer.data.dataset import Dataset

@dataclass
class DataOptions:
    count: int = 64

def load(options):
    chance = np.random.default_rng(options.count)
    def split(count):
        rooms = chance.integers(1, 6, (count, 1))
        areas = chance.standard_normal((count, 3))
        price = areas.sum(axis=1) + rooms[:, 0]
        return {"rooms": rooms, "areas": areas, "price": price}
    return Dataset("prices", split(options.count), split(20))

def init(key, example, options):
    return {"w": jax.random.normal(key, (4,)) * 0.1, "b": jnp.zeros(())}

def fwd(example, weights, options):
    x = jnp.concatenate([example["areas"], example["rooms"].astype(jnp.float32)])
    price = x @ weights["w"] + weights["b"]
    return {"price": price, "parts": x * weights["w"]}

def loss(output, example):
    return (output["price"] - example["price"]) ** 2

def read(path):
    given = json.loads(path.read_text())
    return {name: np.array(given[name]) for name in ("rooms", "areas")}
"""
# A model of tokens: integer inputs, outputs of rank 2, in bfloat16, and whole numbers.
TOKENS = """
import jax
import jax.numpy as jnp
import numpy as np
from trainer.data.dataset import Dataset

def load(options):
    start = np.arange(80)[:, None]
    tokens = (start + np.arange(13)) % 20
    return Dataset("counting", {"tokens": tokens[:60]}, {"tokens": tokens[60:]})

def init(key, example, options):
    return {"embed": jax.random.normal(key, (20, 20)) * 0.1}

def fwd(example, weights, options):
    return weights["embed"].astype(jnp.bfloat16)[example["tokens"]]

def _loss(output, example):
    logits = jax.nn.log_softmax(output[:-1].astype(jnp.float32))
    following = example["tokens"][1:]
    return -jnp.mean(jnp.take_along_axis(logits, following[:, None], axis=1))

def loss(output, example):
    return _loss(output, example)

def metrics(output, example):
    return {"bits_per_token": _loss(output, example) / jnp.log(2.0)}

def outputs(output):
    return {"logits": output, "next": jnp.argmax(output[-1])}
"""


def train(folder: Path, name: str, source: str, *options: str) -> Path:
    """Write a module and train it for a moment; return the run directory."""
    (folder / f"{name}.py").write_text(source)
    own = ["model=module", f"model.module={name}.py"]
    if "def load(" in source:
        own += ["data=module", f"data.module={name}.py"]
    else:
        own += ["data=mnist_5k"]
    own += ["train.epochs=2", "train.global_batch_size=16", "train.steps_per_dispatch=2"]
    with contextlib.chdir(folder):
        code = train_here(*own, *options, f"run.dir={name}")
    assert code == 0
    return folder / name
