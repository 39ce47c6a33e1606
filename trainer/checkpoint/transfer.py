"""The weights that a run begins with: those of another run where they fit, and which are frozen."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import numpy.typing as npt

from trainer.job.errors import ConfigError
from trainer.tasks.task import Weights, named_leaves

Arrays = Mapping[str, npt.NDArray[Any]]  # by path


class Transfer(NamedTuple):
    """What was taken from another run; leaves by their paths."""

    taken: dict[str, npt.NDArray[Any]]  # by the paths of this model
    drawn: list[str]  # leaves of this model that the other does not have, or in another shape
    left: list[str]  # leaves of the other that this model does not have, or in another shape


def transfer(weights: Weights, other: Arrays, renamed: Sequence[str]) -> Transfer:
    """Find the leaves of this model in another one: of the same path, shape and dtype.

    Args:
        weights: shapes and dtypes of this model.
        other: the leaves of the other.
        renamed: as init.map, OTHER:THIS: a leaf, or all leaves below a path, of the other model.

    Raises:
        ConfigError: a renamed path is not there, or nothing fits.
    """
    own, names = named_leaves(weights), {path: path for path in other}
    for rule in renamed:
        source, _, target = rule.partition(":")
        for path, side, paths in ((source, "the other run", other), (target, "this model", own)):
            hint = f"use OTHER:THIS, with leaves or what is above them: {', '.join(paths)}"
            message = f"init.map={rule}: {side} has no weights {path}"
            _check(any(_is_below(name, path) for name in paths), message, hint)
        names |= {p: target + p.removeprefix(source) for p in other if _is_below(p, source)}
    taken = {}
    for source, target in names.items():
        leaf, array = own.get(target), other[source]
        if leaf is not None and (leaf.shape, leaf.dtype) == (array.shape, array.dtype):
            taken[target] = array
    if not taken:
        message = "init.run: no weights of that run have the path and shape of one of this model"
        raise ConfigError(
            f"{message}: {', '.join(other)}", "rename them with init.map=[OTHER:THIS]"
        )
    left = [source for source, target in names.items() if target not in taken]
    taken = {path: taken[path] for path in own if path in taken}
    return Transfer(taken, [path for path in own if path not in taken], left)


def frozen(weights: Weights, patterns: Sequence[str]) -> Any:
    """Return which leaves match a pattern of init.freeze: a pytree of bools; None for no patterns.

    A pattern is a path, in which * stands for any text; what is below it matches too.

    Raises:
        ConfigError: a pattern matches nothing, or they match all.
    """
    if not patterns:
        return None
    paths = [*named_leaves(weights)]
    hits = {p: [fnmatchcase(x, p) or fnmatchcase(x, f"{p}/*") for x in paths] for p in patterns}
    useless = [pattern for pattern, each in hits.items() if not any(each)]
    is_frozen = [any(each) for each in zip(*hits.values(), strict=True)]
    rule = f"{useless[0]} matches no weights" if useless else "nothing is left to train"
    message = f"init.freeze=[{','.join(patterns)}]: {rule}"
    _check(not useless and not all(is_frozen), message, f"the weights are {', '.join(paths)}")
    return jax.tree.unflatten(jax.tree.structure(weights), is_frozen)


def _check(ok: bool, message: str, hint: str) -> None:
    if not ok:
        raise ConfigError(message, hint)


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}/")
