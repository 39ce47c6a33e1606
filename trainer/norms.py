"""How large the weights and the gradients of each layer are, measured beside the training step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trainer import model, step
from trainer.stream import Superbatch

MOST_EXAMPLES = 1024  # of a batch that are looked at: one device does it, while others wait

Norms = dict[str, jax.Array]  # "weight_norm", "gradient_norm": (layers,) float32


def make(objective: step.Objective) -> Callable[[model.Weights, Superbatch], Norms]:
    """Build the program that measures: (weights, batch) -> norms, on one device.

    It takes images (rows, pixels), labels and mask (rows,), all uint8. The gradient is that of the
    mean loss over the batch. A norm is the root of the sum of squares over kernel and bias.

    A program of its own: norms inside the training step would read every gradient once more at
    every step, and could change how it rounds.
    """

    def measure(weights: model.Weights, batch: Superbatch) -> Norms:
        gradients, sums = jax.grad(step.batch_sums, has_aux=True)(weights, batch, objective)
        means = jax.tree.map(lambda g: g / sums.examples, gradients)
        return {"weight_norm": _by_layer(weights), "gradient_norm": _by_layer(means)}

    return jax.jit(measure)


def _by_layer(layers: model.Weights) -> jax.Array:
    squares = [sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(x)) for x in layers]
    return jnp.sqrt(jnp.stack(squares))
