"""What an optimizer is to the training step, and the one that the options optim.* name."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trainer.config import user_module
from trainer.job.errors import ConfigError

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
        raise ConfigError("optim.name=None: name a function of optax: optim.name=adamw")
    module_name, _, function = name.rpartition(".")
    if module_name:
        places = [user_module.load("optim.name", module_name)]
    else:
        import optax  # takes a second, and SGD does not need it

        places = [optax, optax.contrib]
    found = next((f for place in places if (f := getattr(place, function, None))), None)
    if not callable(found):
        hint = "use sgd, a function of optax like adamw, or an import path like my_file.make"
        raise ConfigError(f"optim.name={name}: there is no such function", hint)
    optimizer = from_optax(found, options)
    try:  # before any device starts
        state = jax.eval_shape(optimizer.init, weights)
        lr = jax.ShapeDtypeStruct((), "float32")
        jax.eval_shape(optimizer.step, weights, state, weights, lr)
    except Exception as error:
        text = f"optim.name={name} optim.options={dict(options)}: {error}"
        raise ConfigError(text, "it is called with learning_rate and these options") from None
    return optimizer


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
