"""The task's own layout of the weights, in which they stay while steps run."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trainer.tasks.task import Task, Weights


def fits(task: Task, weights: Weights, optim_state: Any) -> bool:
    """Return whether the task has a layout of its own that the optimizer's state can follow.

    It can if all arrays in it belong to trees like the weights, as the velocities do. The state of
    some optimizers has arrays for a part of the weights, or for their rows.
    """
    if task.layout is None:
        return False
    others = jax.tree.leaves(
        jax.tree.map(
            lambda tree: () if _is_like(weights, tree) else tree,
            optim_state,
            is_leaf=partial(_is_like, weights),
        )
    )
    return all(leaf.ndim == 0 for leaf in others)


def turned(state: Any, task: Task, *, back: bool) -> Any:
    """Bring all trees like the weights in a state to the task's layout, or back from it.

    Such are the weights, their average, and what the optimizer keeps for each of them.
    """
    if task.layout is not None:
        is_like, turn = partial(_is_like, state.weights), task.layout[back]
        state = jax.tree.map(
            lambda tree: turn(tree) if is_like(tree) else tree, state, is_leaf=is_like
        )
    # The barrier keeps XLA from looking through the new layout where the loop has one step only: K
    # steps in one dispatch must give the same bits as K dispatches of one step.
    return lax.optimization_barrier(state)


def _is_like(weights: Weights, tree: Any) -> bool:
    """Return whether a pytree has the structure and the shapes of the weights."""
    structures: tuple[Any, Any] = (jax.tree.structure(weights), jax.tree.structure(tree))
    if structures[0] != structures[1]:
        return False
    return jax.tree.map(jnp.shape, weights) == jax.tree.map(jnp.shape, tree)
