"""A file that is mapped into memory: its pages belong to the kernel's cache of files."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.rows import Index, View, taken_from
from trainer.job.errors import DataError


class Mapped(View):
    """An array in a file, mapped into memory by numpy.

    What was read stays in the kernel's cache of files as long as nothing else needs the memory. So
    it counts as resident, but takes none away. Giving it back oneself (MADV_DONTNEED), or reading
    with pread, costs 30 or 5 times as much for a row of 784 bytes.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        """Take over an array that np.load or np.memmap has mapped."""
        super().__init__(array.shape, array.dtype)
        mapping = mapping_of(array)
        assert mapping is not None
        self._array, self._mapping = np.asarray(array), mapping
        self._bytes = len(self._mapping)
        self._address = np.frombuffer(self._mapping, np.uint8).ctypes.data
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
            DataError: the file was cut short since. To touch what is missing would end the process.
        """
        if (now := self._mapping.size()) < self._bytes:
            message = f"{self.path}: has {now:,} bytes, and had more when it was opened"
            raise DataError(message, "copy the file again, and train in another run")
        return taken_from(self._array, rows)


def mapping_of(array: npt.NDArray[Any]) -> mmap.mmap | None:
    """Return the mapping of the file, if numpy knows it."""
    mapping: mmap.mmap | None = getattr(array, "_mmap", None)
    return mapping
