"""A task from the user's module: its functions are checked once, on shapes alone, then bound."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from trainer.data.dataset import Superbatch
from trainer.tasks import classification
from trainer.tasks.checks import Checked
from trainer.tasks.task import (
    Differentiated,
    Example,
    Key,
    Named,
    Output,
    SummedLoss,
    Task,
    Weights,
    batch_gradients,
    named_leaves,
)

KEY = jax.ShapeDtypeStruct((2,), "uint32")
ROWS = 3  # of the batch on which the hook `gradients` is checked


def make(module: Any, options: Any, example: Mapping[str, Any]) -> Task:
    """Return the task that a user's module defines.

    Args:
        module: defines init and fwd, and perhaps others of checks.PARAMETERS.
        options: an instance of its dataclass Options, or an empty dict.
        example: field -> shape and dtype of ONE example.

    Raises:
        ConfigError: a function is missing or wrong; names the user's file and line.
    """
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in example.items()}
    checked = Checked(module, spec)
    init, fwd = checked.function("init"), checked.function("fwd")
    has_key = len(inspect.signature(fwd).parameters) == 4

    def init_weights(key: jax.Array) -> Weights:
        return init(key, spec, options)

    def apply(example: Example, weights: Weights, key: Key = None) -> Output:
        rest = (options, key) if has_key else (options,)
        return jax.tree.map(jnp.asarray, fwd(example, weights, *rest))

    weights = checked.shapes("init", init_weights, KEY)
    checked.weights(weights)
    output = checked.shapes("fwd", apply, spec, weights, note=", and key=None" * has_key)
    if has_key:
        checked.shapes("fwd", apply, spec, weights, KEY)
    if not jax.tree.leaves(output):
        raise checked.error("fwd", "returned nothing: return an array, or a dict of arrays")

    augment = None
    if hasattr(module, "augment"):
        own_augment = checked.function("augment")

        def augment(example: Example, key: jax.Array) -> Example:
            return jax.tree.map(jnp.asarray, own_augment(example, options, key))

        hint = "return all fields of the example, of the same shapes and dtypes"
        checked.form("augment", checked.shapes("augment", augment, spec, KEY), spec, hint)

    is_classifier = getattr(module, "loss", None) is None
    if is_classifier:
        checked.classifies(spec, output)
    no_metrics: Callable[..., Named] = lambda output, example: {}  # noqa: E731
    loss, metrics, outputs = (
        _with_options(checked.function(name, default), options)
        for name, default in (
            ("loss", classification.loss),
            ("metrics", classification.metrics if is_classifier else no_metrics),
            ("outputs", classification.outputs if is_classifier else _as_dict),
        )
    )
    checked.scalar("loss", checked.shapes("loss", loss, output, spec))
    names = checked.metrics(checked.shapes("metrics", metrics, output, spec))
    if not isinstance(checked.shapes("outputs", outputs, output), dict):
        raise checked.error("outputs", "has to return a dict of arrays")

    def total(weights: Weights, example: Example) -> jax.Array:
        return jnp.asarray(loss(apply(example, weights), example), jnp.float32)

    checked.shapes("loss", jax.grad(total), weights, spec)
    task = Task(
        init=init_weights,
        fwd=apply,
        loss=loss,
        metrics=metrics,
        metric_names=names,
        inputs=_used(apply, spec, weights),
        example=spec,
        outputs=outputs,
        prediction=classification.prediction if is_classifier else None,
        read=checked.reader() if hasattr(module, "read") else None,
        is_random=has_key,
        augment=augment,
    )
    if hasattr(module, "gradients"):
        task = _with_gradients(task, checked, options, weights)
    if hasattr(module, "to_layout") or hasattr(module, "from_layout"):
        task = _with_layout(task, checked, weights)
    return task


def _with_options(function: Callable[..., Any], options: Any) -> Callable[..., Any]:
    """Return a function without its last parameter, if that is called `options`."""
    if [*inspect.signature(function).parameters][-1] != "options":
        return function
    return lambda *arguments: function(*arguments, options)


def _with_gradients(task: Task, checked: Checked, options: Any, weights: Weights) -> Task:
    """Return a task with the user's `gradients`, of the form of those that jax.grad returns."""
    own = checked.function("gradients")
    if task.is_random:
        hint = "leave one of them out"
        raise checked.error("gradients", "gets no random keys, but fwd takes one", hint)

    def gradients(weights: Weights, examples: Example, loss: SummedLoss) -> Differentiated:
        made, bounds, rows = own(examples, weights, options, loss)
        return made, jnp.broadcast_to(bounds, rows[0].shape).astype(jnp.float32), rows

    batch = Superbatch(task.example, jax.ShapeDtypeStruct((), "uint8"))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((ROWS, *x.shape), x.dtype), batch)
    hooked = task._replace(gradients=gradients)
    right, made = (
        checked.shapes("gradients", partial(batch_gradients, each), weights, batch)
        for each in (task, hooked)
    )
    checked.form("gradients", made, right, "return gradients like the weights, bounds, and rows")
    return hooked


def _with_layout(task: Task, checked: Checked, weights: Weights) -> Task:
    """Return a task with the user's layout of the weights."""

    def flat(tree: Weights) -> Weights:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((x.size,), x.dtype), tree)

    there, back = checked.function("to_layout"), checked.function("from_layout")
    turned = checked.shapes("to_layout", there, weights)
    hint = "return the weights, each array with its elements in another order"
    checked.form("to_layout", flat(turned), flat(weights), hint)
    again = checked.shapes("from_layout", back, turned)
    checked.form("from_layout", again, weights, "undo what to_layout does")
    return task._replace(layout=(there, back))


def _as_dict(output: Output) -> Named:
    named = named_leaves(output)
    return {name or "output": leaf for name, leaf in named.items()}


def _used(fwd: Callable[..., Any], example: Example, weights: Weights) -> tuple[str, ...]:
    """Return the fields of an example that the output depends on."""
    # From the last equation of the program to the first: what a needed result is computed from is
    # needed too.
    jaxpr = jax.make_jaxpr(fwd)(example, weights).jaxpr
    needed = {var for var in jaxpr.outvars if not hasattr(var, "val")}  # constants have a value
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(var for var in equation.invars if not hasattr(var, "val"))
    # jax flattens a dict in the order of its sorted keys.
    fields = dict(zip(sorted(example), jaxpr.invars, strict=False))
    return tuple(name for name in example if fields[name] in needed)
