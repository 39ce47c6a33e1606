"""Norms of the weights and gradients of each layer, by a program beside the training step."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from trainer.data.dataset import Superbatch
from trainer.parallel import gradients, remat
from trainer.tasks.task import Task, Weights, batch_gradients, named_leaves

MOST_EXAMPLES = 1024  # of a batch: one device computes the norms while the others wait

Norms = dict[str, jax.Array]  # "weight_norm/0/kernel", "gradient_norm/...": scalars, float32


def make(
    task: Task, most_rows: int = MOST_EXAMPLES, remat_parts: int | None = None
) -> Callable[[Weights, Superbatch], Norms]:
    """Build the program (weights, batch of fields (rows, ...)) -> norms, on one device.

    The gradient is that of the mean loss over the batch, without random numbers; a norm is the root
    of the sum of squares. The gradients of `most_rows` examples at most are computed at once, and
    activations again as in the step (model.remat): what fits there fits here.

    It is not part of the training step: there the norms would read every gradient once more at
    every step, and could change how XLA rounds it.
    """
    task = remat.in_parts(task, remat_parts)

    def measure(weights: Weights, batch: Superbatch) -> Norms:
        total = len(batch.mask)
        parts = next(n for n in range(-(-total // most_rows), total + 1) if total % n == 0)
        split = gradients.Split(None, 1, parts, ())
        gradients_of = partial(batch_gradients, task, weights)
        result, _ = gradients.summed(gradients_of, batch, jnp.zeros(()), split)
        means = jax.tree.map(lambda g: g / result.sums[-1], result.gradients)
        return {
            f"{kind}/{path}": jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32))))
            for kind, tree in (("weight_norm", weights), ("gradient_norm", means))
            for path, leaf in named_leaves(tree).items()
        }

    return jax.jit(measure)


def of_weights(weights: Weights) -> dict[str, float]:
    """Return the norms of weights alone, which are numpy arrays."""
    return {
        f"weight_norm/{path}": float(np.linalg.norm(leaf.astype(np.float32).ravel()))
        for path, leaf in named_leaves(weights).items()
    }
