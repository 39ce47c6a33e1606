"""A file that is mapped into memory: its pages belong to the kernel's cache of files."""

import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.rows import Index, View, taken_from
from trainer.job.errors import DataError

MOST_BYTES = 64 << 20  # of the files that are mapped; more is given back to the kernel's cache
AROUND = 64 << 10  # bytes that the kernel maps around each that is read


class Mapped(View):
    """An array in a file, mapped into memory by numpy.

    This process keeps only some megabytes of the file. All others stay in the kernel's cache of
    files, as long as nothing else needs the memory.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        """Take over an array that np.load or np.memmap has mapped."""
        super().__init__(array.shape, array.dtype)
        mapping = mapping_of(array)
        assert mapping is not None
        self._array, self._mapping = np.asarray(array), mapping
        self._bytes = len(self._mapping)
        self._address = np.frombuffer(self._mapping, np.uint8).ctypes.data
        self._rows = max(1, MOST_BYTES // (AROUND + self.nbytes // max(1, len(self))))
        self.path = Path(str(getattr(array, "filename", None)))
        if self._bytes > MOST_BYTES:
            _large.add(mapping)

    def stamp(self) -> bytes:
        """Return where the bytes are, and the size and time of the file."""
        status = self.path.stat()
        where = (self._array.ctypes.data - self._address, self._array.strides, self._array.dtype)
        about = (str(self.path.resolve()), status.st_size, status.st_mtime_ns, *where)
        return repr(about).encode()

    def read(self, rows: Index) -> npt.NDArray[Any]:
        """Return rows, copied.

        Raises:
            DataError: the file was cut short since. To touch what is missing ends the process.
        """
        result = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for first in range(0, len(rows), self._rows):
            if (bytes_ := self._mapping.size()) < self._bytes:
                message = f"{self.path}: has {bytes_:,} bytes, and had more when it was opened"
                raise DataError(message, "copy the file again, and train in another run")
            some = slice(first, first + self._rows)
            result[some] = taken_from(self._array, rows[some])
            if self._bytes > MOST_BYTES:
                _give_back()
        return result


def mapping_of(array: npt.NDArray[Any]) -> mmap.mmap | None:
    """Return the mapping of the file, if numpy knows it."""
    mapping: mmap.mmap | None = getattr(array, "_mmap", None)
    return mapping


_large: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()
_kept = 0  # bytes of files, such as the programs, that are mapped with nothing of the data


def _give_back() -> None:
    """Let go of what is mapped of the data, if it is much."""
    global _kept
    if _mapped() > _kept + MOST_BYTES:
        for mapping in _large:
            mapping.madvise(mmap.MADV_DONTNEED)
        _kept = _mapped()


def _mapped() -> int:
    """Return the bytes of files in the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[2])
    return pages * os.sysconf("SC_PAGE_SIZE")
