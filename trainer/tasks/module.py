"""A task from the user's module: its functions are checked once, on shapes alone, then bound.

Every mistake becomes a ConfigError that names the file and the line, before a device computes.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainer.config import user_module
from trainer.data.dataset import Examples
from trainer.job.errors import ConfigError, DataError
from trainer.tasks import classification
from trainer.tasks.task import Example, Key, Named, Output, Task, Weights, named_leaves

OPTION = "model.module"
# Names in a logged point that are no metrics.
# Names that metrics.jsonl and the JSON of `evaluate` have for something else.
RESERVED = {"loss", "lr", "examples_per_second", "step", "split", "time", "run", "data"}
RESERVED |= {"examples", "classes", "confusion"}
KEY = jax.ShapeDtypeStruct((2,), "uint32")


def make(module: Any, options: Any, example: Mapping[str, Any]) -> Task:
    """Return the task that a user's module defines.

    Args:
        module: defines init(key, example, options), fwd(example, weights, options) or
            fwd(example, weights, options, key), and perhaps augment(example, options, key),
            loss(output, example), metrics(output, example), outputs(output), and
            read(path) -> fields (N, ...).
        options: an instance of its dataclass Options, or an empty dict.
        example: field -> shape and dtype of ONE example.

    Raises:
        ConfigError: a function is missing or wrong; names the user's file and line.
    """
    checked = _Checked(module)
    init = checked.function("init", "key, example, options")
    fwd = checked.function("fwd", "example, weights, options", optional="key")
    has_key = len(inspect.signature(fwd).parameters) == 4
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in example.items()}

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
        own_augment = checked.function("augment", "example, options, key")

        def augment(example: Example, key: jax.Array) -> Example:
            return jax.tree.map(jnp.asarray, own_augment(example, options, key))

        checked.augmented(spec, checked.shapes("augment", augment, spec, KEY))

    own_loss = getattr(module, "loss", None)
    if own_loss is None:
        checked.classifies(spec, output)
    loss = checked.function("loss", "output, example", default=classification.loss)
    default = classification.metrics if own_loss is None else _no_metrics
    metrics = checked.function("metrics", "output, example", default=default)
    default_outputs = classification.outputs if own_loss is None else _as_dict
    outputs = checked.function("outputs", "output", default=default_outputs)
    checked.scalar("loss", checked.shapes("loss", loss, output, spec))
    names = checked.metrics(checked.shapes("metrics", metrics, output, spec))
    if not isinstance(checked.shapes("outputs", outputs, output), dict):
        raise checked.error("outputs", "has to return a dict of arrays")

    def total(weights: Weights, example: Example) -> jax.Array:
        return jnp.asarray(loss(apply(example, weights), example), jnp.float32)

    checked.shapes("loss", jax.grad(total), weights, spec)
    inputs = _used(apply, spec, weights)
    return Task(
        init=init_weights,
        fwd=apply,
        loss=loss,
        metrics=metrics,
        metric_names=names,
        inputs=inputs,
        example=spec,
        outputs=outputs,
        prediction=classification.prediction if own_loss is None else None,
        read=checked.reader(),
        is_random=has_key,
        augment=augment,
    )


def _no_metrics(output: Output, example: Example) -> Named:
    return {}


def _as_dict(output: Output) -> Named:
    named = named_leaves(output)
    return {name or "output": leaf for name, leaf in named.items()}


def _used(fwd: Callable[..., Any], example: Example, weights: Weights) -> tuple[str, ...]:
    """Return the fields of an example that the output depends on."""
    jaxpr = jax.make_jaxpr(fwd)(example, weights).jaxpr
    needed = {var for var in jaxpr.outvars if not hasattr(var, "val")}  # constants have a value
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(var for var in equation.invars if not hasattr(var, "val"))
    # jax flattens a dict in the order of its sorted keys.
    fields = dict(zip(sorted(example), jaxpr.invars, strict=False))
    return tuple(name for name in example if fields[name] in needed)


class _Checked:
    """The functions of a user's module."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._name = user_module.file_name(module)

    def error(self, function: str, problem: str, hint: str = "") -> ConfigError:
        """Return an error that names the file and the line of a function."""
        try:
            code = inspect.unwrap(getattr(self._module, function)).__code__
            place = f"{self._name}:{code.co_firstlineno}"
        except AttributeError:
            place = self._name
        return ConfigError(f"{OPTION}: {place}: {function} {problem}", hint)

    def function(
        self,
        name: str,
        parameters: str,
        optional: str = "",
        default: Callable[..., Any] | None = None,
    ) -> Callable[..., Any]:
        """Return a function of the module, or the default; it takes these parameters."""
        found = getattr(self._module, name, default)
        wanted = f"({parameters})" + (f", or ({parameters}, {optional})" if optional else "")
        if not callable(found):
            raise ConfigError(f"{OPTION}: {self._name} has no function {name}{wanted}")
        counts = [parameters.count(",") + 1]
        counts += [counts[0] + 1] if optional else []
        own = inspect.signature(found).parameters
        required = [p for p in own.values() if p.default is p.empty or p.name == optional]
        if found is not default and (len(required) not in counts or len(own) != len(required)):
            raise self.error(name, f"takes ({', '.join(own)})", f"let it take {wanted}")
        return found

    def reader(self) -> Callable[[Path], Examples] | None:
        """Return its `read`, whose errors become DataError, or None."""
        if not hasattr(self._module, "read"):
            return None
        own = self.function("read", "path")

        def read(path: Path) -> Examples:
            try:
                with user_module.readable(OPTION, f"{self._name}, read()"):
                    given = own(path)
                    if not isinstance(given, dict):
                        hint = "return a dict of arrays (N, ...)"
                        raise self.error("read", f"returned {type(given).__name__}", hint)
                    return {name: np.asarray(array) for name, array in given.items()}
            except ConfigError as error:
                raise DataError(f"{path}: {error}") from None

        return read

    def shapes(
        self, name: str, function: Callable[..., Any], *arguments: Any, note: str = ""
    ) -> Any:
        """Return the shapes of what a function returns; nothing is computed.

        The note says what else the function gets, at the end of a message.
        """
        try:
            with user_module.readable(OPTION, f"{self._name}, {name}()"):
                return jax.eval_shape(function, *arguments)
        except ConfigError as error:
            if name == "init":
                raise
            given = ", ".join(
                f"{path} {leaf.dtype}{list(leaf.shape)}"
                for argument in arguments
                if isinstance(argument, dict)
                for path, leaf in list(named_leaves(argument).items())[:4]
            )
            raise ConfigError(f"{error}\nIt gets ONE example: {given}{note}") from None

    def weights(self, weights: Weights) -> None:
        """Check that weights are floating-point arrays."""
        leaves = named_leaves(weights)
        if not leaves:
            raise self.error("init", "returned no arrays", "return the weights, any pytree")
        if len(leaves) < len(jax.tree.leaves(weights)):
            raise self.error("init", "returned two weights of one path", "leave / out of the names")
        for path, leaf in leaves.items():
            if not leaf.size:  # orbax refuses to save it
                raise self.error("init", f"returned an empty array: {path}", "leave it out")
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                problem = f"returned weights of dtype {leaf.dtype}: {path}"
                raise self.error("init", problem, "make them float32; constants go into Options")

    def classifies(self, example: Mapping[str, Any], output: Any) -> None:
        """Check that the default loss fits: integer labels, and logits."""
        label = example.get("label")
        fits = label is not None and label.shape == () and jnp.issubdtype(label.dtype, jnp.integer)
        if not fits:
            problem = (
                "has no loss(output, example), and the default needs a field `label`, an integer"
            )
            raise ConfigError(f"{OPTION}: {self._name} {problem}")
        leaves = jax.tree.leaves(output)
        if len(leaves) != 1 or leaves[0].ndim != 1:
            shapes = [list(leaf.shape) for leaf in leaves]
            problem = f"returned shapes {shapes}, but the default loss takes logits (classes,)"
            raise self.error("fwd", problem, "return logits of ONE example, or write a loss")

    def augmented(self, example: Example, result: Any) -> None:
        """Check that an example has the same fields, shapes and dtypes as before."""
        before = {name: _text(field) for name, field in example.items()}
        after: Any = _text(result)
        if isinstance(result, dict):
            after = {name: _text(field) for name, field in result.items()}
        if before != after:
            hint = "return all fields of the example, of the same shapes and dtypes"
            raise self.error("augment", f"returned {after} for {before}", hint)

    def scalar(self, name: str, value: Any, key: str = "") -> None:
        """Check that a value is one floating-point number."""
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            problem = f"returned {_text(value)}" + (f" for {key!r}" if key else "")
            raise self.error(name, problem, "return one float for one example, such as jnp.mean(x)")

    def metrics(self, metrics: Any) -> tuple[str, ...]:
        """Check that metrics are named scalars; return their names."""
        if not isinstance(metrics, dict):
            raise self.error("metrics", f"returned {_text(metrics)}", "return a dict")
        for key, value in metrics.items():
            if key in RESERVED or not str(key).isidentifier():
                hint = "use another name, of letters, digits and _"
                raise self.error("metrics", f"has a metric named {key!r}", hint)
            self.scalar("metrics", value, key)
        return tuple(metrics)


def _text(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
