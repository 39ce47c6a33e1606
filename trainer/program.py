"""A jitted function, compiled when it first meets a shape; the seconds are counted as such."""

from __future__ import annotations

from typing import Any

import jax

from trainer.account import Account


class Program:
    """A jitted function whose compilations are not mistaken for its running time."""

    def __init__(self, jitted: Any, account: Account) -> None:
        self._jitted = jitted
        self._account = account
        self._compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, *args: Any) -> Any:
        """Call the function, compiling it first for shapes that are new."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(args))
        if shapes not in self._compiled:
            with self._account.phase("compile"):
                self._compiled[shapes] = self._jitted.lower(*args).compile()
        return self._compiled[shapes](*args)
