"""What is trained on: examples in memory or in files; the batches that one dispatch consumes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.order import Mixture
from trainer.data.rows import Array

Bytes = npt.NDArray[np.uint8]
SPLITS = ("train", "validation", "test")
Examples = dict[str, Any]  # field -> Array (N, ...), each with the same N; read-only
Splits = dict[str, Any]  # a name of SPLITS -> Examples; Any for mypy: Dataset(name, **splits)


class Columns(NamedTuple):
    """The columns of a table that the fields of its examples were made of."""

    features: Sequence[str]  # of the field `features`, in this order
    categories: Mapping[str, Sequence[Any]]  # field -> texts or whole numbers, of codes 0, 1, ...


class Dataset(NamedTuple):
    """What to train on, to select by and to test on: splits of the same fields, dtypes and shapes.

    Where there is no validation split, data.validation_fraction makes one of the training examples.
    """

    name: str
    train: Examples
    test: Examples
    sha256: str = ""  # identifies the contents; "" is filled in when the data set is loaded
    validation: Examples | None = None
    class_names: tuple[str, ...] = ()  # of labels 0, 1, ...; empty: there are no names
    mixture: Mixture | None = None  # the shares of the sets that the training examples are of
    columns: Columns | None = None  # None: it is no table

    @property
    def splits(self) -> dict[str, Examples]:
        """The splits that there are, by name."""
        each = {name: getattr(self, name) for name in SPLITS}
        return {name: examples for name, examples in each.items() if examples is not None}

    @property
    def watched(self) -> str:
        """The split that is evaluated during training: without a validation split, the test one."""
        return "test" if self.validation is None else "validation"


class Superbatch(NamedTuple):
    """K batches; `batch` is the global one, or the part of it that this process loads."""

    examples: Any  # field -> (K, batch, ...)
    mask: Any  # (K, batch) uint8: 1 for an example, 0 where a batch is short
    index: Any = None  # (K, batch) int32: of each example in its split; None: nobody asks for it
    other: Any = None  # as examples: another one for each, to mix it with; None: nobody asks for it


class Needs(NamedTuple):
    """What a task needs of its batches besides the examples."""

    indices: bool = False
    other: bool = False


def size(examples: Mapping[str, Array]) -> int:
    """Return the number of examples."""
    return len(next(iter(examples.values())))


def bytes_of_one(examples: Mapping[str, Array]) -> int:
    """Return the bytes of one example."""
    return sum(array.nbytes for array in examples.values()) // size(examples)


def first(examples: Mapping[str, Array], count: int) -> Examples:
    """Return the first examples, in memory."""
    return {name: array[:count] for name, array in examples.items()}


def fields(examples: Mapping[str, Array]) -> str:
    """Return the name, dtype and shape of each field of an example, for a message."""
    arrays = sorted(examples.items())
    return ", ".join(f"{name} {array.dtype}{list(array.shape[1:])}" for name, array in arrays)
