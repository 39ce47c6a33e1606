"""A file that is mapped into memory: its pages belong to the kernel's cache of files."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.rows import Index, View
from trainer.job.errors import DataError


class Mapped(View):
    """An array in a file, mapped into memory by numpy.

    The pages that were read stay in memory as long as nothing else needs it: the kernel drops
    them, and reads them again.
    """

    def __init__(self, array: "np.memmap[Any, Any]") -> None:
        """Take over an array that np.load or np.memmap has mapped."""
        super().__init__(array.shape, array.dtype)
        mapping = mapping_of(array)
        assert mapping is not None
        self._array, self._mapping = np.asarray(array), mapping
        self._bytes = len(self._mapping)
        self._address = np.frombuffer(self._mapping, np.uint8).ctypes.data
        self.path = Path(str(array.filename))

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
        if (bytes_ := self._mapping.size()) < self._bytes:
            message = f"{self.path}: has {bytes_:,} bytes, and had more when it was opened"
            raise DataError(message, "copy the file again, and train in another run")
        return np.take(self._array, rows, axis=0, mode="clip")


def mapping_of(array: "np.memmap[Any, Any]") -> mmap.mmap | None:
    """Return the mapping of the file, if numpy knows it."""
    mapping: mmap.mmap | None = vars(array).get("_mmap")
    return mapping
