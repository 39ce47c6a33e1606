"""Applying optimizer steps to weights."""

from __future__ import annotations

from typing import TypeVar

import jax

Tree = TypeVar("Tree")  # a pytree of arrays


def apply_gradients(gradients: Tree, weights: Tree, minimize: bool = True) -> Tree:
    """Return weights - gradients leaf by leaf, or weights + gradients if not `minimize`."""
    if minimize:
        return jax.tree.map(lambda w, g: w - g, weights, gradients)
    return jax.tree.map(lambda w, g: w + g, weights, gradients)
