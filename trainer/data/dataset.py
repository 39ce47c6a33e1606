"""What is trained on: examples in memory, and the batches of them that one dispatch consumes."""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Examples = dict[str, npt.NDArray[Any]]  # field -> (N, ...), each with the same N; read-only


class Dataset(NamedTuple):
    """What to train on and what to test on. Both splits have the same fields, dtypes and shapes."""

    name: str
    train: Examples
    test: Examples
    sha256: str = ""  # identifies the contents; "" is filled in when the data set is loaded


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


def size(examples: Examples) -> int:
    """Return the number of examples."""
    return len(next(iter(examples.values())))


def bytes_of_one(examples: Examples) -> int:
    """Return the bytes of one example."""
    return sum(array.nbytes for array in examples.values()) // size(examples)


def sha256(train: Examples, test: Examples) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and bytes of all arrays."""
    digest = hashlib.sha256()
    for examples in (train, test):
        for name, array in sorted(examples.items()):
            digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
