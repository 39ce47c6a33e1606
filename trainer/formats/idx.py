"""IDX files -> arrays. A file holds exactly what its header declares, or it is refused.

The format: two zero bytes, the element type, the number of dims, each dim as a big-endian uint32,
then the elements, big-endian. A file is plain or gzip; the contents say which, not the name.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.rows import LARGE, Array, Converted, Mapped, parts
from trainer.job.errors import DataError, reading

GZIP_MAGIC = b"\x1f\x8b"
TYPES = {0x08: "u1", 0x09: "i1", 0x0B: "i2", 0x0C: "i4", 0x0D: "f4", 0x0E: "f8"}
CODES = {name: code for code, name in TYPES.items()}
MOST_DIMS = 8
MOST_HEADER = 4 + 4 * MOST_DIMS
AGAIN = "copy or download the file again"


def read_images(path: Path) -> Array:
    """Return the images of a file, (N, ...), read-only; raises as load() and images()."""
    return images(load(path), str(path))


def read_labels(path: Path, num_classes: int) -> Array:
    """Return the labels of a file, (N,), read-only; raises as load() and labels()."""
    return labels(load(path), str(path), num_classes)


def read(path: Path) -> bytes:
    """Return the bytes of a file; raises DataError if it cannot be read."""
    with reading(path):
        return path.read_bytes()


def load(path: Path) -> Array:
    """Return the array of a file, as parse() does; that of a large plain file is a View.

    Raises:
        DataError: the file cannot be read; or as parse().
    """
    with reading(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(MOST_HEADER)
        if size <= LARGE or start.startswith(GZIP_MAGIC):
            return parse(path.read_bytes(), str(path))
        dtype, first, shape = _read_header(start, size, str(path))
        array = Mapped(np.memmap(path, dtype, "r", first, shape))
    return array if dtype == _native(dtype) else Converted(array, _native(dtype))


def parse(data: bytes, name: str) -> Array:
    """Return the array in the bytes of the file `name`, of any rank and type, read-only.

    Its dtype is that of the file, float32 for float64: jax computes with 32 bits.

    Raises:
        DataError: the bytes are anything but one whole IDX array.
    """
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            message = f"{name}: the gzip data are corrupt or cut short ({error})"
            raise DataError(message, AGAIN) from error
    dtype, first, shape = _read_header(data[:MOST_HEADER], len(data), name)
    array = np.frombuffer(data, dtype, offset=first).reshape(shape)
    array = array.astype(_native(dtype), copy=False)
    array.flags.writeable = False
    return array


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that elements get: the machine's, of 32 bits at most, as jax has them."""
    native = dtype.newbyteorder("=")
    return np.dtype("f4") if native == np.float64 else native


def _read_header(data: bytes, bytes_: int, name: str) -> tuple[np.dtype[Any], int, tuple[int, ...]]:
    """Return the dtype of elements, the place of the first, and the shape, from the first bytes."""
    start = bytes(data[:4]).ljust(4, b"\0")
    kind, rank = TYPES.get(start[2]), start[3]
    if start[:2] != b"\0\0" or kind is None or not 1 <= rank <= MOST_DIMS:
        raise DataError(
            f"{name}: starts with {data[:4].hex(' ') or 'nothing'}, but an IDX file with 00 00, "
            "its type and its number of dims, such as 00 00 08 03",
            AGAIN,
        )
    dtype, first = np.dtype(f">{kind}"), 4 + 4 * rank
    # Padded: where a header is cut short, a dim becomes 0 or the elements are too few.
    shape = struct.unpack(f">{rank}I", data[4:first].ljust(4 * rank, b"\0"))
    size = max(bytes_ - first, 0)
    if size != math.prod(shape) * dtype.itemsize or size == 0:
        dims = " x ".join(map(str, shape))
        each = f" of {dtype.itemsize} bytes each" if dtype.itemsize > 1 else ""
        message = f"{name}: {size:,} bytes of elements, but the header declares {dims}{each}"
        raise DataError(message, AGAIN)
    return dtype, first, shape


def images(array: Array, name: str) -> Array:
    """Return an array from the file `name` if it can hold images, (N, ...).

    Raises:
        DataError: it has one dim, as labels have.
    """
    if array.ndim == 1:
        message = f"{name}: holds {len(array):,} numbers, but images have dims: N x rows x cols"
        raise DataError(message, "were the files of images and labels swapped?")
    return array


def labels(array: Array, name: str, num_classes: int) -> Array:
    """Return an array from the file `name` if it holds labels, (N,), from 0 to num_classes - 1.

    Raises:
        DataError: it has other dims, a number that is not whole, or one that is no class.
    """
    array = np.asarray(array)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        text = f"{array.dtype} {' x '.join(map(str, array.shape))}"
        message = f"{name}: holds {text}, but labels are N whole numbers"
        raise DataError(message, "were the files of images and labels swapped?")
    if (wrong := (array < 0) | (array >= num_classes)).any():
        first = int(np.argmax(wrong))
        message = f"{name}: label {array[first]} at index {first}: expected 0 to {num_classes - 1}"
        raise DataError(message, "correct the labels or the number of classes, data.num_classes")
    return array


def sha256(array: Array) -> str:
    """Return the SHA-256 of the plain IDX file that holds just this array."""
    digest = hashlib.sha256(header(array.shape, array.dtype))
    for part in parts(array):
        digest.update(part.astype(array.dtype.newbyteorder(">"), copy=False).data)
    return digest.hexdigest()


def header(shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8) -> bytes:
    """Return what comes before the elements in the plain file of an array of this shape."""
    code = CODES[np.dtype(dtype).str[1:]]
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)
