"""The optimizer that the options optim.* name: SGD, one of optax, or the user's own."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from trainer.config import user_module
from trainer.job.errors import ConfigError
from trainer.optimizers.optimizer import Optimizer, Tree, stochastic_gradient_descent


def from_optax(make: Callable[..., Any], options: Mapping[str, Any]) -> Optimizer:
    """Return an optimizer of optax: `make(learning_rate=..., **options)` makes a transformation.

    The learning rate of a step is a traced value, so a schedule is not compiled in, and the state
    of the optimizer holds none.
    """

    def transformation(lr: jax.Array | float) -> Any:
        return make(learning_rate=lr, **options)

    def init(weights: Tree) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it, whatever is configured
            return transformation(0.0).init(weights)

    def step(gradients: Tree, state: Any, weights: Tree, lr: jax.Array) -> tuple[Tree, Any]:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, state = transformation(lr).update(gradients, state, weights)
            return jax.tree.map(lambda update: -update, updates), state

    return Optimizer(init, step)


def make(
    name: str | None,
    momentum: float | None,
    nesterov: bool | None,
    options: Mapping[str, Any],
    weights: Tree,
) -> Optimizer:
    """Return the optimizer that the options optim.* name.

    Args:
        name: sgd, a function of optax, or the import path of a function like one (my_file.make).
        momentum: of sgd.
        nesterov: of sgd.
        options: arguments of the function.
        weights: their shapes and dtypes, for which it is checked.

    Raises:
        ConfigError: there is no such function, or it does not take these options.
    """
    if name == "sgd":
        return stochastic_gradient_descent(momentum or 0.0, bool(nesterov))
    if not name:
        raise ConfigError("optim.name=null: name a function of optax: optim.name=adamw")
    module_name, _, function = name.rpartition(".")
    if module_name:
        places = [user_module.load("optim.name", module_name)]
    else:
        import optax  # takes a second, and SGD does not need it

        places = [optax, optax.contrib]
    factory = next((f for place in places if (f := getattr(place, function, None))), None)
    if not callable(factory):
        hint = "use sgd, a function of optax like adamw, or an import path like my_file.make"
        raise ConfigError(f"optim.name={name}: there is no such function", hint)
    optimizer = from_optax(factory, options)
    try:  # before any device starts
        state = jax.eval_shape(optimizer.init, weights)
        lr = jax.ShapeDtypeStruct((), "float32")
        jax.eval_shape(optimizer.step, weights, state, weights, lr)
    except Exception as error:
        text = f"optim.name={name} optim.options={dict(options)}: {error}"
        raise ConfigError(text, "it is called with learning_rate and these options") from None
    return optimizer
