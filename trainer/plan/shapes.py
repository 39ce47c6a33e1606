"""The examples of a job, for their shapes: those of its data set, or stand-ins that take no memory.

The data set is loaded as the job loads it, but never downloaded. MNIST has shapes that are known.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.config.schema import DataConfig
from trainer.data.dataset import Dataset, Examples
from trainer.data.report import Report
from trainer.data.rows import Concatenated, Converted, Rows
from trainer.data.split import with_validation
from trainer.formats.download import Missing
from trainer.job.errors import ConfigError
from trainer.sources import load as data_sets

MNIST = ("image=uint8[28,28]", "label=uint8[]")
TRAIN, TEST = 60_000, 10_000  # examples of MNIST, and of a stand-in
_FIELD = re.compile(r"(\w+)=(\w+)\[((?:\d+(?:,\d+)*)?)\]")
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # field -> dtype and shape of one example


def of_fields(texts: Sequence[str]) -> Shapes:
    """Return the fields that --field describes, like image=uint8[28,28] and label=uint8[].

    Raises:
        ConfigError: one cannot be read.
    """
    shapes = {}
    for text in texts:
        match = _FIELD.fullmatch(text.replace(" ", ""))
        hint = "use NAME=DTYPE[SIZE,...], like image=uint8[28,28] or label=uint8[]"
        try:
            dtype = np.dtype(match[2]) if match else None
        except TypeError:
            dtype = None
        if match is None or dtype is None or dtype.kind not in "biuf":
            raise ConfigError(f"--field={text}", hint)
        shapes[match[1]] = (dtype.name, tuple(int(n) for n in match[3].split(",") if n))
    return shapes


def dataset_of(
    data: DataConfig, fields: Shapes, poll: Callable[[], None], warn: Callable[[str], None]
) -> Dataset:
    """Return the data set, or a stand-in: with these fields, if there are any, or for MNIST.

    Raises:
        ConfigError, DataError: as sources.load.load.
    """
    if fields:
        return _stand_in(data, "fields", fields)
    here = copy.copy(data)
    here.download = here.offline_fallback = False
    try:
        return data_sets.load(here, Report(lambda *_: None, poll, warn))
    except Missing as error:
        if data.name != "mnist":
            hint = "plan it where the data are, or describe an example with --field"
            raise Missing(str(error), hint) from None
        return _stand_in(data, "mnist", of_fields(MNIST))


def host_bytes(dataset: Dataset) -> int:
    """Return the memory that the examples take in every process; what is in files takes none."""
    kept = dict[int, int]()
    arrays = [array for examples in dataset.splits.values() for array in examples.values()]
    for array in arrays:  # it grows: a view has the arrays that it reads
        if isinstance(array, np.ndarray):
            kept[id(array)] = array.nbytes
        arrays += [array.array] if isinstance(array, Rows | Converted) else []
        arrays += array.arrays if isinstance(array, Concatenated) else []
    return sum(kept.values())


def _stand_in(data: DataConfig, name: str, shapes: Shapes) -> Dataset:
    """Return a data set of one example, as often as MNIST has examples, without their memory."""

    def split(count: int) -> Examples:
        examples = {}
        for field, (dtype, shape) in shapes.items():
            # 0 and 1 in turn: not all pixels of an image may be equal.
            one = (np.arange(math.prod(shape)) % 2).astype(dtype).reshape(shape)
            examples[field] = np.broadcast_to(one, (count, *shape))
        return examples

    whole = Dataset(name, split(TRAIN), split(TEST), "stand-in")
    return with_validation(whole, data.validation_fraction)
