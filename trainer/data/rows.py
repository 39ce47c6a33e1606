"""Arrays whose rows are read, or computed, when they are asked for.

So neither a data set that is larger than memory nor a split of one takes memory. What goes over
all of an array asks for its `parts`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
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
        self.array, self.rows = array, rows

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


def gather(array: Array, indices: Index) -> npt.NDArray[Any]:
    """Return the rows of these numbers: indices of any shape, in range -> (*indices.shape, ...)."""
    if isinstance(array, View):
        taken = array.read(indices.ravel())
    else:
        # mode="clip" skips a second pass over the indices, which are in range.
        taken = np.take(np.asarray(array), indices.ravel(), axis=0, mode="clip")
    return taken.reshape(*indices.shape, *array.shape[1:])


def parts(array: Array) -> Iterator[npt.NDArray[Any]]:
    """Yield all rows in their order, some megabytes at a time: in memory, C-contiguous."""
    rows = max(1, PART_BYTES * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        yield np.ascontiguousarray(array[first : first + rows])
