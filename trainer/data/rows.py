"""Arrays whose rows are read, or computed, when they are asked for.

So neither a data set that is larger than memory nor a split of one takes memory. What goes over
all of an array asks for its `parts`.
"""

import hashlib
import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.job.errors import DataError

Index = npt.NDArray[np.integer[Any]]

PART_BYTES = 4 << 20
LARGE = 256 << 20  # bytes; what is larger is not copied into memory as a whole


class View(ABC):
    """An array (N, ...) whose rows are read or computed when they are asked for.

    Numpy can convert it; `view[index]`, with a slice or an array of indices, is a numpy array.
    """

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        """Set what numpy's arrays have too."""
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


# What the trainer needs of an array (N, ...): shape, dtype, nbytes, len(), and rows by index.
Array = npt.NDArray[Any] | View


class Mapped(View):
    """An array in a file, mapped into memory by numpy.

    What was read stays in the kernel's page cache as long as nothing else needs the memory: it
    counts as resident, but is free for others. To release it at once (MADV_DONTNEED) or to read
    with pread takes 30 or 5 times as long for a row of 784 bytes.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        """Take over an array that np.load or np.memmap has mapped."""
        super().__init__(array.shape, array.dtype)
        mapping: mmap.mmap | None = getattr(array, "_mmap", None)
        assert mapping is not None
        self._array, self._mapping = np.asarray(array), mapping
        self._bytes = len(self._mapping)
        self._address = np.frombuffer(self._mapping, np.uint8).ctypes.data  # of the mapping
        self.path = Path(str(getattr(array, "filename", None)))

    def stamp(self) -> bytes:
        """Return where the bytes are, and the size and time of the file."""
        status = self.path.stat()
        where = (self._array.ctypes.data - self._address, self._array.strides, self._array.dtype)
        about = (str(self.path.resolve()), status.st_size, status.st_mtime_ns, *where)
        return repr(about).encode()

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return rows, copied.

        Raises:
            DataError: the file was cut short since. To read the missing pages would end the process
                (SIGBUS).
        """
        if (now := self._mapping.size()) < self._bytes:
            message = f"{self.path}: has {now:,} bytes, and had more when it was opened"
            raise DataError(message, "copy the file again, and train in another run")
        return gather(self._array, rows)


class Rows(View):
    """Some rows of an array (M, ...), in an order."""

    def __init__(self, array: Array, rows: Index) -> None:
        """Keep the array; `rows` (N,) are the numbers of the rows in it."""
        super().__init__((len(rows), *array.shape[1:]), array.dtype)
        self.array, self.rows = array, small(rows)

    def stamp(self) -> bytes:
        """Return that of the array, with a digest of the numbers of its rows."""
        inner = self.array.stamp() if isinstance(self.array, View) else b""
        return inner and inner + hashlib.sha256(self.rows.tobytes()).digest()

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return some of them."""
        return gather(self.array, self.rows[rows])


class Converted(View):
    """An array in another dtype, such as the native order of bytes."""

    def __init__(self, array: Array, dtype: npt.DTypeLike) -> None:
        """Keep the array; nothing is converted yet."""
        super().__init__(array.shape, dtype)
        self.array = array

    def stamp(self) -> bytes:
        """Return that of the array; whoever uses a stamp adds the dtype."""
        return self.array.stamp() if isinstance(self.array, View) else b""

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return rows in the other dtype."""
        return gather(self.array, rows).astype(self.dtype, copy=False)


class Concatenated(View):
    """Arrays of one dtype (M, ...), one after the other."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        """Keep the arrays; nothing is copied."""
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
    rows = indices.ravel()
    if isinstance(array, View):
        taken = array.read(rows)
    elif array.flags.c_contiguous:
        # mode="clip" skips a second pass over the indices, which are in range.
        taken = np.take(np.asarray(array), rows, axis=0, mode="clip")
    else:  # np.take would copy all of it first
        taken = np.asarray(array[rows])
    return taken.reshape(*indices.shape, *array.shape[1:])


def parts(array: Array) -> Iterator[npt.NDArray[Any]]:
    """Yield all rows in their order, some megabytes at a time: in memory, C-contiguous."""
    rows = max(1, PART_BYTES * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        yield np.ascontiguousarray(array[first : first + rows])
