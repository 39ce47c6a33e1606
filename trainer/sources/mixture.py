"""Several data sets -> one, of which each batch has its share of every set."""

import hashlib
from collections.abc import Mapping

from trainer.data.dataset import Dataset, Examples, size
from trainer.data.order import MOST_PARTS, Mixture, whole
from trainer.data.rows import Concatenated
from trainer.job.errors import ConfigError


def mixed(sets: Mapping[str, Dataset], weights: Mapping[str, float]) -> Dataset:
    """Return the training examples of all sets as a mixture; the other splits are put together.

    Args:
        sets: the data sets, checked, each with its validation split.
        weights: of those that do not have 1.

    Raises:
        ConfigError: the sets do not fit together, or the weights have no simple ratio.
    """
    first, *others = sets
    one = sets[first]
    for name in others:
        for what, mine, theirs in (
            ("fields", _fields(one), _fields(sets[name])),
            ("class names", ", ".join(one.class_names), ", ".join(sets[name].class_names)),
        ):
            if mine != theirs:
                message = f"data.sets: {first} has the {what} {mine or 'none'}, {name} "
                raise ConfigError(f"{message}{theirs or 'none'}", "give all sets the same")
    given = [float(weights.get(name, 1)) for name in sets]
    try:
        shares = whole(given)
    except ValueError as error:
        message = f"data.weights={dict(zip(sets, given, strict=True))}: {error}"
        hint = f"use rounder ones: as whole numbers they add up to at most {MOST_PARTS:,}"
        raise ConfigError(message, hint) from None
    known = [f"{name}\0{of.sha256}\0{size(of.train)}\0" for name, of in sets.items()]
    return Dataset(
        "mixture",
        _together([of.train for of in sets.values()]),
        _together([of.test for of in sets.values()]),
        hashlib.sha256("".join(known).encode()).hexdigest(),
        _together([of.validation for of in sets.values() if of.validation is not None]) or None,
        one.class_names,
        Mixture(tuple(size(of.train) for of in sets.values()), shares),
    )


def _fields(dataset: Dataset) -> str:
    fields = sorted(dataset.train.items())
    return ", ".join(f"{name} {array.dtype}{list(array.shape[1:])}" for name, array in fields)


def _together(splits: list[Examples]) -> Examples:
    return {name: Concatenated([split[name] for split in splits]) for name in (splits or [{}])[0]}
