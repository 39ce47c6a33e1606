"""Regression on a table: how far diabetes has progressed after a year, from ten numbers a patient.

    python -m trainer --config-dir examples/tabular +experiment=tabular

The model and its data in one file. There are no classes, hence no accuracy.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

from trainer import Dataset
from trainer.functional import dropout, linear, losses


@dataclass
class Options:
    """model.options.*."""

    width: int = 64  # of the hidden layer
    dropout: float = 0.2
    mean: float = 152.0  # of the targets; a plain network gives numbers around 0,
    scale: float = 77.0  # about as large as 1


def load(options):
    """Return 442 patients: `features`, float32 (N, 10), and `target`, float32 (N,)."""
    features, target = load_diabetes(return_X_y=True)
    features = features / features.std(axis=0)
    order = np.random.default_rng(0).permutation(len(target))
    splits = [
        {"features": features[rows].astype(np.float32), "target": target[rows].astype(np.float32)}
        for rows in (order[88:], order[:88])
    ]
    return Dataset("diabetes", *splits)


def init(key, example, options):
    """Return the weights of two layers."""
    hidden, output = jax.random.split(key)
    return {
        "hidden": linear.init(hidden, *example["features"].shape, options.width),
        "output": linear.init(output, options.width, 1),
    }


def fwd(example, weights, options, key):
    """Return the prediction, a scalar; key is None outside training."""
    x = linear.fwd(jnp.asarray(example["features"]), weights["hidden"], jax.nn.relu)
    x = dropout.fwd(x, key, options.dropout)
    return options.mean + options.scale * linear.fwd(x, weights["output"])[0]


def loss(prediction, example):
    """Return the squared error."""
    return losses.mean_squared_error(prediction, jnp.asarray(example["target"]))


def metrics(prediction, example):
    """Return the absolute error, which has the unit of the target."""
    return {"mean_absolute_error": jnp.abs(prediction - jnp.asarray(example["target"]))}
