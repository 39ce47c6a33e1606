"""Modules of flax.nnx and equinox as tasks: `init, fwd = adapters.from_flax(build)`.

`build` makes a new module wherever one is needed, also while the training step is traced: its
own random weights are then replaced by the trained ones, and XLA drops the code that draws them.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax

from trainer.tasks.task import Example, Key, Output, Weights, named_leaves

Functions = tuple[Callable[..., Weights], Callable[..., Output]]  # init and fwd of a user's module


def from_flax(build: Callable[..., Any]) -> Functions:
    """Return init and fwd for modules of flax.nnx.

    Args:
        build: (example, options, rngs) -> module; `example` has the shapes and dtypes of ONE
            example, `rngs` is an nnx.Rngs. The module is called with one example, a dict of arrays.

    The weights are the module's nnx.Param, a nested dict. Dropout draws from each example's own key
    in training, and is off elsewhere.

    Raises:
        TypeError: when called, if the module has state besides weights and random numbers, as
            nnx.BatchNorm does: one example cannot update it.
    """
    from flax import nnx

    def init(key: jax.Array, example: Example, options: Any) -> Weights:
        with _usual_promotion():
            module = build(example, options, nnx.Rngs(key))
        _, weights, _, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
        if kinds := {type(leaf).__name__ for _, leaf in nnx.to_flat_state(rest)}:
            raise TypeError(
                f"{type(module).__name__} has {', '.join(sorted(kinds))}, neither nnx.Param nor "
                "random numbers: use nnx.GroupNorm or nnx.LayerNorm instead of nnx.BatchNorm"
            )
        return nnx.to_pure_dict(weights)

    def fwd(example: Example, weights: Weights, options: Any, key: Key) -> Output:
        with _usual_promotion():
            module = build(_shapes(example), options, nnx.Rngs(0 if key is None else key))
            state = nnx.state(module, nnx.Param)
            nnx.replace_by_pure_dict(state, weights)
            nnx.update(module, state)
            if key is None:
                module.eval()
            else:
                module.train()
            return module(example)

    return init, fwd


def from_equinox(build: Callable[..., Any]) -> Functions:
    """Return init and fwd for modules of equinox.

    Args:
        build: (example, options, key) -> module; `example` has the shapes and dtypes of ONE
            example. The module is called with one example, a dict of arrays, and with `key=` if it
            has a parameter of that name: a key in training, None elsewhere.

    The weights are the module's floating-point arrays: a dict with their paths, such as
    "layers/0/weight". Modules with equinox.nn.State, as BatchNorm, do not work: one example cannot
    update it.
    """
    import equinox

    def init(key: jax.Array, example: Example, options: Any) -> Weights:
        with _usual_promotion():
            module = build(example, options, key)
        return named_leaves(equinox.filter(module, equinox.is_inexact_array))

    def fwd(example: Example, weights: Weights, options: Any, key: Key) -> Output:
        with _usual_promotion():
            module = build(_shapes(example), options, jax.random.PRNGKey(0))
            drawn, rest = equinox.partition(module, equinox.is_inexact_array)
            leaves = [weights[path] for path in named_leaves(drawn)]
            trained = jax.tree.unflatten(jax.tree.structure(drawn), leaves)
            module = equinox.nn.inference_mode(equinox.combine(trained, rest), key is None)
            takes_key = "key" in inspect.signature(module).parameters
            return module(example, **({"key": key} if takes_key else {}))

    return init, fwd


def _shapes(example: Example) -> Example:
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in example.items()}


@contextlib.contextmanager
def _usual_promotion() -> Iterator[None]:
    """Let dtypes and ranks be promoted as jax does by default, which both libraries rely on."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
