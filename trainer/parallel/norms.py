"""Norms of the weights and gradients of each layer, by a program beside the training step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trainer.data.dataset import Superbatch
from trainer.models import mlp
from trainer.tasks.classification import Objective, batch_gradients

MOST_EXAMPLES = 1024  # of a batch: one device computes the norms while the others wait

Norms = dict[str, jax.Array]  # "weight_norm/layer/0/kernel", "gradient_norm/...": scalars, float32


def make(objective: Objective) -> Callable[[mlp.Weights, Superbatch], Norms]:
    """Build the program (weights, batch) -> norms, on one device.

    It takes images (rows, pixels), labels and mask (rows,), all uint8. The gradient is that of the
    mean loss over the batch; a norm is the root of the sum of squares.

    It is not part of the training step: there the norms would read every gradient once more at
    every step, and could change how XLA rounds it.
    """

    def measure(weights: mlp.Weights, batch: Superbatch) -> Norms:
        result = batch_gradients(weights, batch, objective)
        means = jax.tree.map(lambda g: g / result.sums.examples, result.gradients)
        return {
            f"{kind}/layer/{i}/{name}": jnp.sqrt(jnp.sum(jnp.square(leaf)))
            for kind, layers in (("weight_norm", weights), ("gradient_norm", means))
            for i, name, leaf in mlp.leaves(layers)
        }

    return jax.jit(measure)
