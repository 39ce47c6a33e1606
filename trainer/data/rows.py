"""Arrays whose rows are read, or computed, when they are asked for.

So neither a data set that is larger than memory nor a split of one takes memory. What goes over
all of an array asks for its `parts`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.integer[Any]]

PART_BYTES = 4 << 20
LARGE = 256 << 20  # bytes; what is larger is not copied into memory as a whole


class Array(Protocol):
    """What the trainer needs of an array (N, ...): a numpy array has it, and so has a View."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102 - as numpy's
    @property
    def ndim(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    @property
    def nbytes(self) -> int: ...  # noqa: D102
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]: ...


class View(ABC):
    """An array (N, ...) whose rows are read or computed when they are asked for.

    Numpy can convert it; `view[index]`, with a slice or an array of indices, is a numpy array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Describe it."""
        self.shape, self.dtype = shape, np.dtype(dtype)

    @abstractmethod
    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return the rows of these numbers (n,), in range: (n, ...), not to be changed."""

    def stamp(self) -> bytes:
        """Return what changes with the bytes, such as the time of a file; nothing if unknown."""
        return b""

    @property
    def ndim(self) -> int:
        """As numpy's."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all rows, wherever they are."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        if isinstance(index, slice):
            return self.read(np.arange(*index.indices(len(self))))
        return gather(self, np.arange(len(self))[index])

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)


class Rows(View):
    """Some rows of an array (M, ...), in an order."""

    def __init__(self, array: Array, rows: Index) -> None:
        """Describe them; `rows` (N,) are their numbers in the array."""
        super().__init__((len(rows), *array.shape[1:]), array.dtype)
        self.array, self.rows = array, small(rows)

    def stamp(self) -> bytes:
        """As that of the array, and of the numbers of its rows."""
        inner = self.array.stamp() if isinstance(self.array, View) else b""
        return inner and inner + hashlib.sha256(self.rows.tobytes()).digest()

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return some of them."""
        return gather(self.array, self.rows[rows])


class Converted(View):
    """An array in another dtype, such as the native order of bytes."""

    def __init__(self, array: Array, dtype: npt.DTypeLike) -> None:
        """Describe it."""
        super().__init__(array.shape, dtype)
        self.array = array

    def stamp(self) -> bytes:
        """As that of the array; whoever uses it adds the dtype."""
        return self.array.stamp() if isinstance(self.array, View) else b""

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return rows in the other dtype."""
        return gather(self.array, rows).astype(self.dtype, copy=False)


class Concatenated(View):
    """Arrays of one dtype (M, ...), one after the other."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        """Describe them."""
        self.arrays, self._ends = arrays, np.cumsum([len(array) for array in arrays])
        super().__init__((int(self._ends[-1]), *arrays[0].shape[1:]), arrays[0].dtype)

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return rows of all of them."""
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        chosen = np.searchsorted(self._ends, rows, "right")
        for number, array in enumerate(self.arrays):
            (mine,) = np.nonzero(chosen == number)
            if len(mine):
                result[mine] = gather(array, rows[mine] - (self._ends[number] - len(array)))
        return result


def small(rows: Index) -> Index:
    """Return numbers of rows in 32 bits, where these hold them: there may be many."""
    return rows.astype(np.int32) if len(rows) < 2**31 and rows.max(initial=0) < 2**31 else rows


def gather(array: Array, indices: Index) -> npt.NDArray[Any]:
    """Return the rows of these numbers: indices of any shape, in range -> (*indices.shape, ...)."""
    if isinstance(array, View):
        taken = array.read(indices.ravel())
    else:
        taken = taken_from(np.asarray(array), indices.ravel())
    return taken.reshape(*indices.shape, *array.shape[1:])


def taken_from(array: npt.NDArray[Any], rows: Index) -> npt.NDArray[Any]:
    """Return rows of a numpy array."""
    if not array.flags.c_contiguous:  # np.take would copy all of it first
        return np.asarray(array[rows])
    # mode="clip" skips a second pass over the indices, which are in range.
    return np.take(array, rows, axis=0, mode="clip")


def parts(array: Array) -> Iterator[npt.NDArray[Any]]:
    """Yield all rows in their order, some megabytes at a time: in memory, C-contiguous."""
    rows = max(1, PART_BYTES * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        yield np.ascontiguousarray(array[first : first + rows])
