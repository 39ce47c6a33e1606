"""The checks of a user's module: of its functions, on shapes alone; nothing is computed.

Every mistake becomes a ConfigError that names the file and the line.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainer.config import user_module, user_sources
from trainer.data.dataset import Examples
from trainer.job.errors import ConfigError, DataError
from trainer.job.stdout import listed
from trainer.tasks.task import Weights, named_leaves

OPTION = "model.module"
PARAMETERS = {  # of the functions in a user's module; init and fwd are required
    "init": "key, example, options",
    "fwd": "example, weights, options",
    "augment": "example, options, key",
    "loss": "output, example",
    "metrics": "output, example",
    "outputs": "output",
    "read": "path",  # of a file for `predict`; returns fields (N, ...)
    "gradients": "examples, weights, options, loss",  # see Task.gradients
    "to_layout": "weights",  # see Task.layout
    "from_layout": "weights",
}
# What may come after these parameters.
OPTIONAL = {"fwd": "key", **dict.fromkeys(("loss", "metrics", "outputs"), "options")}
# Names that metrics.jsonl and the JSON of `evaluate` have for something else.
RESERVED = {"loss", "lr", "examples_per_second", "step", "split", "time", "run", "data"}
RESERVED |= {"examples", "classes", "confusion"}


class Checked:
    """The functions of a user's module."""

    def __init__(self, module: Any, example: Mapping[str, Any]) -> None:
        """`example` has the shapes and dtypes of one, for messages."""
        self._module, self._example = module, example
        self._name = user_sources.file_name(module)

    def error(self, function: str, problem: str, hint: str = "") -> ConfigError:
        """Return an error that names the file and the line of a function."""
        try:
            code = inspect.unwrap(getattr(self._module, function)).__code__
            own = Path(code.co_filename).name == self._name  # not that of an adapter
            place = f"{self._name}:{code.co_firstlineno}" if own else self._name
        except AttributeError:
            place = self._name
        return ConfigError(f"{OPTION}: {place}: {function} {problem}", hint)

    def function(self, name: str, default: Callable[..., Any] | None = None) -> Callable[..., Any]:
        """Return a function of the module, or the default; it takes the right parameters."""
        function = getattr(self._module, name, default)
        forms = [PARAMETERS[name]]
        forms += [f"{forms[0]}, {OPTIONAL[name]}"] if name in OPTIONAL else []
        wanted = ", or ".join(f"({form})" for form in forms)
        if not callable(function):
            raise ConfigError(f"{OPTION}: {self._name} has no function {name}{wanted}")
        own = inspect.signature(function).parameters
        counts = [form.count(",") + 1 for form in forms]
        has_defaults = any(p.default is not p.empty and p.name != "key" for p in own.values())
        if function is not default and (len(own) not in counts or has_defaults):
            raise self.error(name, f"takes ({', '.join(own)})", f"let it take {wanted}")
        return function

    def reader(self) -> Callable[[Path], Examples]:
        """Return its `read`, whose errors become DataError."""
        own = self.function("read")

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
            if name not in ("init", "fwd", "augment", "loss", "metrics"):
                raise
            given = _listed(self._example)
            if name == "fwd":
                given += f"; weights: {_listed(arguments[1])}"
            elif name in ("loss", "metrics"):
                given += f"; the output: {_listed(arguments[0])}"
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

    def form(self, name: str, result: Any, right: Any, hint: str) -> None:
        """Check that a function returns arrays of the right names, shapes and dtypes."""
        made, wanted = (
            {path: _text(leaf) for path, leaf in named_leaves(tree).items()}
            for tree in (result, right)
        )
        structures: tuple[Any, Any] = (jax.tree.structure(result), jax.tree.structure(right))
        if made != wanted or structures[0] != structures[1]:
            raise self.error(name, f"returned {made} for {wanted}", hint)

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


def _listed(tree: Any) -> str:
    """Return the first arrays of a pytree, with their paths, dtypes and shapes."""
    return listed([f"{path} {_text(x)}".strip() for path, x in named_leaves(tree).items()])


def _text(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
