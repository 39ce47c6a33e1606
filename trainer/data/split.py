"""The validation split: training examples that training does not see, to select models by."""

import hashlib

import numpy as np

from trainer.data.dataset import Dataset, size
from trainer.data.rows import Rows
from trainer.data.stream import permutation
from trainer.job.errors import ConfigError


def with_validation(dataset: Dataset, fraction: float) -> Dataset:
    """Return the data set with a validation split: its own, or a fraction of its training examples.

    Which examples these are depends on the data alone (Dataset.sha256): all runs, all trials of a
    sweep and all seeds select by the same ones. Both parts keep the order of the data.

    Raises:
        ConfigError: there are too few examples.
    """
    if dataset.validation is not None or not fraction:
        return dataset
    examples = size(dataset.train)
    count = max(1, round(fraction * examples))
    if count >= examples:
        message = f"data.validation_fraction={fraction}: all {examples:,} training examples"
        raise ConfigError(message, "use a smaller fraction, or 0 for no validation split")
    seed = int.from_bytes(hashlib.sha256(dataset.sha256.encode()).digest()[:7], "big")
    order = permutation(seed, 0, examples)
    validation, train = np.sort(order[:count]), np.sort(order[count:])
    return dataset._replace(
        train={name: Rows(array, train) for name, array in dataset.train.items()},
        validation={name: Rows(array, validation) for name, array in dataset.train.items()},
    )
