"""How the summed gradients of a step change the weights: clipped, by an optimizer, and averaged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trainer.optimizers.optimizer import Optimizer, Tree


class Update(NamedTuple):
    """How gradients change the weights; the learning rate enters the step as a value."""

    optimizer: Optimizer
    clip_norm: float | None = None  # scale larger mean gradients down to this norm
    skip_nonfinite: bool = False  # True: drop a non-finite update and continue; False: stop there
    frozen: Any = None  # a pytree of bools: which weights the optimizer leaves alone; None: none
    log_norm: bool = False  # whether the metrics have the norm of the summed gradients
    ema_decay: float | None = None  # of the average of the weights, at each step; None: no average


def updated(
    update: Update,
    before: tuple[Tree, Any, Tree | None],
    total: Tree,
    norm: Callable[[], jax.Array],
    examples: jax.Array,
    lr: jax.Array,
) -> tuple[Tree, Any, Tree | None]:
    """Return the weights, the state of the optimizer and the average of the weights. Pure.

    Args:
        update: what to do.
        before: the same three, before the step.
        total: the gradients, summed over the examples; float32, in the structure of the weights.
        norm: returns the norm of all of them, (), of which `total` may be this device's parts.
        examples: (), float32: how many there are.
        lr: (), float32: the learning rate.
    """
    weights, optim_state, ema = before
    optimizer, scale = update.optimizer, 1 / examples
    if update.clip_norm is not None:
        scale = scale * jnp.minimum(1, update.clip_norm / jnp.maximum(norm() * scale, 1e-30))
    if not optimizer.scales_with_lr:
        total = jax.tree.map(lambda g, w: (g * scale).astype(w.dtype), total, weights)
    elif update.clip_norm is None:
        # Not lr * (1 / examples): the rounding of the runs before there were other optimizers.
        lr = lr / examples
    else:
        lr = lr * scale
    updates, optim_state = optimizer.step(total, optim_state, weights, lr)
    updates = jax.tree.map(lambda u, w: u.astype(w.dtype), updates, weights)
    weights, decay = jax.tree.map(jnp.subtract, weights, updates), update.ema_decay
    if decay is not None:
        # The barrier, and this form, leave one way to round it, whatever XLA fuses.
        weights = lax.optimization_barrier(weights)
        ema = jax.tree.map(lambda a, w: a + (1 - decay) * (w.astype(jnp.float32) - a), ema, weights)
    return weights, optim_state, ema
