"""Stochastic gradient descent with momentum; the learning rate is folded into the velocity.

v' = momentum * v + lr * g; the step is v', or momentum * v' + lr * g with Nesterov's momentum.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")  # a pytree of arrays


class State(NamedTuple):
    """Optimizer state: one velocity of the same shape and dtype as each weight."""

    velocities: object


def init(weights: object) -> State:
    """Start from zero velocities."""
    return State(jax.tree.map(jnp.zeros_like, weights))


def step(
    gradients: Tree,
    state: State,
    lr: jax.Array | float = 0.01,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> tuple[Tree, State]:
    """Turn gradients into the amounts to subtract; applies nothing (see update.apply_gradients).

    Unlike a learning rate multiplied in at the end, a changed lr does not rescale what the
    velocity already holds: g=1, momentum=.5 and lr=.1 .1 .2 give .1 .15 .275.

    Args:
        gradients: a pytree of arrays.
        state: velocities of the same structure, shapes and dtypes.
        lr: the learning rate, a scalar; an array must have the gradients' dtype.
        momentum: in [0, 1).
        nesterov: look one step ahead.

    Returns:
        the updates to subtract from the weights, and the new state.
    """
    velocities = jax.tree.map(lambda g, v: momentum * v + lr * g, gradients, state.velocities)
    if not nesterov:
        return velocities, State(velocities)
    ahead = jax.tree.map(lambda g, v: momentum * v + lr * g, gradients, velocities)
    return ahead, State(velocities)


def apply_gradients(gradients: Tree, weights: Tree, minimize: bool = True) -> Tree:
    """Return weights - gradients leaf by leaf, or weights + gradients if not `minimize`."""
    if minimize:
        return jax.tree.map(lambda w, g: w - g, weights, gradients)
    return jax.tree.map(lambda w, g: w + g, weights, gradients)
