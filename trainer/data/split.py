"""Splits of the training examples: some are held out, to select models by or to test them."""

import hashlib

import numpy as np

from trainer.data.dataset import Dataset, Examples, Splits, size
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
    train, validation = _divided(dataset.train, option, fraction, dataset.sha256)
    return dataset._replace(train=train, validation=validation)


def with_test(splits: Splits, fraction: float | None, identity: str) -> Splits:
    """Return the splits with one for testing: their own, or a fraction of the training examples.

    `fraction` is data.test_fraction, and the rest as in held_out().
    """
    if "test" in splits:
        return splits
    train, test = _divided(splits["train"], "data.test_fraction", fraction or 0.0, identity)
    return {**splits, "train": train, "test": test}


def held_out(
    option: str, fraction: float, identity: str, examples: int, of: str = "training examples"
) -> tuple[Index, Index]:
    """Return the numbers of the examples that are kept, and of the fraction that is held out.

    Both are in ascending order, and depend on the text that identifies the data alone. At least one
    example is held out. Messages have the name of the option, and say what the examples are `of`.

    Raises:
        ConfigError: the fraction is 0, or holds out all examples.
    """
    if not fraction:
        message = f"{option}={fraction}: none of the {examples:,} {of} is held out"
        raise ConfigError(message, "use a fraction above 0, or give a split of its own")
    count = max(1, round(fraction * examples))
    if count >= examples:
        message = f"{option}={fraction}: holds out all {examples:,} {of}"
        raise ConfigError(message, "use a smaller fraction")
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).digest()
    seed = int.from_bytes(digest[:7], "big")
    order = permutation(seed, 0, examples)
    return np.sort(order[count:]), np.sort(order[:count])


def _divided(
    examples: Examples, option: str, fraction: float, identity: str
) -> tuple[Examples, Examples]:
    """Return the examples that are kept and those that are held out, without a copy."""
    kept, held = (
        {name: Rows(array, rows) for name, array in examples.items()}
        for rows in held_out(option, fraction, identity, size(examples))
    )
    return kept, held
