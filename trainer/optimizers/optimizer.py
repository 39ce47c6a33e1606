"""What an optimizer is, SGD, and how a step changes the weights: clipped, updated, averaged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Tree = Any  # a pytree of arrays, in the structure of the weights


class Optimizer(NamedTuple):
    """Two pure functions. The state is any pytree of arrays; checkpoints keep it."""

    init: Callable[[Tree], Any]  # weights -> state
    # (mean gradients, state, weights, learning rate, a scalar) -> (what to subtract, state)
    step: Callable[[Tree, Any, Tree, jax.Array], tuple[Tree, Any]]
    # Whether step depends only on the product of gradients and learning rate. If so, the trainer
    # gives it the summed gradients with the learning rate divided by the number of examples: to
    # divide every gradient would be one more pass over memory.
    scales_with_lr: bool = False


class Update(NamedTuple):
    """How gradients change the weights; the learning rate enters the step as a value."""

    optimizer: Optimizer
    clip_norm: float | None = None  # scale larger mean gradients down to this norm
    skip_nonfinite: bool = False  # True: drop a non-finite update and continue; False: stop there
    frozen: Any = None  # a pytree of bools: which weights the optimizer leaves alone; None: none
    log_norm: bool = False  # whether the metrics have the norm of the summed gradients
    ema_decay: float | None = None  # of the average of the weights, at each step; None: no average


class State(NamedTuple):
    """State of SGD: one velocity of the same shape and dtype as each weight."""

    velocities: Tree


def stochastic_gradient_descent(momentum: float, nesterov: bool) -> Optimizer:
    """Return SGD with momentum; the learning rate is folded into the velocity.

    v' = momentum * v + lr * g; the step is v', or momentum * v' + lr * g with Nesterov's momentum.
    Unlike a learning rate multiplied in at the end, a changed lr does not rescale what the velocity
    already holds: g=1, momentum=.5 and lr=.1 .1 .2 give .1 .15 .275.
    """

    def init(weights: Tree) -> State:
        return State(jax.tree.map(jnp.zeros_like, weights))

    def step(gradients: Tree, state: Any, weights: Tree, lr: jax.Array) -> tuple[Tree, Any]:
        def moved(velocities: Tree) -> Tree:
            return jax.tree.map(lambda g, v: momentum * v + lr * g, gradients, velocities)

        # Velocities have the dtype of their weights; the sums are float32, as the gradients.
        velocities = moved(jax.tree.map(lambda v: v.astype(jnp.float32), state.velocities))
        narrow = jax.tree.map(lambda v, w: v.astype(w.dtype), velocities, weights)
        return moved(velocities) if nesterov else velocities, State(narrow)

    return Optimizer(init, step, scales_with_lr=True)


def without(optimizer: Optimizer, frozen: Tree) -> Optimizer:
    """Return an optimizer that leaves some leaves as they are, and keeps no state for them.

    `frozen` is a pytree of bools, like the weights. `optimizer` sees None in place of these leaves.
    """

    def trained(tree: Tree) -> Tree:
        return jax.tree.map(lambda leaf, is_frozen: None if is_frozen else leaf, tree, frozen)

    def step(gradients: Tree, state: Any, weights: Tree, lr: jax.Array) -> tuple[Tree, Any]:
        updates, state = optimizer.step(trained(gradients), state, trained(weights), lr)
        rest = iter(jax.tree.leaves(updates))
        whole = jax.tree.map(
            lambda w, fixed: jnp.zeros_like(w) if fixed else next(rest), weights, frozen
        )
        return whole, state

    def init(weights: Tree) -> Any:
        return optimizer.init(trained(weights))

    return optimizer._replace(init=init, step=step)


def global_norm(gradients: Tree) -> jax.Array:
    """Return the root of the sum of the squares of all elements, a scalar, float32."""
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradients)]
    return jnp.sqrt(sum(squares[1:], squares[0]))


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
