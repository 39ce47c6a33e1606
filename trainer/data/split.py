"""Splits of the training examples: some are held out, to select models by or to test them."""

import hashlib

import numpy as np

from trainer.data.dataset import Dataset, Examples, size
from trainer.data.order import permutation
from trainer.data.rows import Index, Rows
from trainer.job.errors import ConfigError


def with_validation(dataset: Dataset, fraction: float) -> Dataset:
    """Return the data set with a validation split: its own, or a fraction of its training examples.

    Which examples these are depends on the data alone (Dataset.sha256): all runs, all trials of a
    sweep and all seeds select by the same ones. Both parts keep the order of the data.

    Raises:
        ConfigError: there are too few examples.
    """
    if dataset.validation is not None or dataset.mixture is not None or not fraction:
        return dataset
    option = "data.validation_fraction"
    train, validation = divided(dataset.train, dataset.sha256, option, fraction)
    return dataset._replace(train=train, validation=validation)


def divided(
    examples: Examples, identity: str, option: str, fraction: float
) -> tuple[Examples, Examples]:
    """Return the other examples, and the fraction of them that is held out, without a copy.

    Which ones depends on the text that identifies the data alone. Raises as `counted`.
    """
    count = counted(option, fraction, size(examples))
    rest, held = (
        {name: Rows(array, rows) for name, array in examples.items()}
        for rows in held_out(identity, size(examples), count)
    )
    return rest, held


def counted(option: str, fraction: float, examples: int) -> int:
    """Return how many examples a fraction of them is, at least 1.

    Raises:
        ConfigError: it is 0, or it is all of them; names the option.
    """
    if not fraction:
        message = f"{option}={fraction}: none of the {examples:,} training examples is held out"
        raise ConfigError(message, "use a fraction above 0, or give a split of its own")
    count = max(1, round(fraction * examples))
    if count >= examples:
        message = f"{option}={fraction}: all {examples:,} training examples"
        raise ConfigError(message, "use a smaller fraction")
    return count


def held_out(identity: str, examples: int, count: int) -> tuple[Index, Index]:
    """Return the numbers of the other examples, and those of `count` that are held out of them.

    Both are in ascending order, and depend on the text that identifies the data alone.
    """
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).digest()
    seed = int.from_bytes(digest[:7], "big")
    order = permutation(seed, 0, examples)
    return np.sort(order[count:]), np.sort(order[:count])
