"""IDX files -> arrays. A file holds exactly what its header declares, or it is refused.

The format: two zero bytes, the element type, the number of dims, each dim as a big-endian uint32,
then the elements. Only unsigned bytes are read, plain or gzip; the contents say which, not the
name.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from trainer.data.dataset import Bytes
from trainer.job.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
AGAIN = "copy or download the file again"


def read_images(path: Path) -> Bytes:
    """Return the images of a file, uint8 (N, rows, cols), read-only; raises as parse()."""
    return parse(read(path), str(path), rank=3)


def read_labels(path: Path, num_classes: int) -> Bytes:
    """Return the labels of a file, uint8 (N,), read-only; raises as parse()."""
    return parse(read(path), str(path), rank=1, num_classes=num_classes)


def read(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise DataError(message, "correct the path or its permissions") from error


def parse(data: bytes, name: str, rank: int, num_classes: int = 256) -> Bytes:
    """Return the array in the bytes of the file `name`, uint8 with `rank` dims, read-only.

    Raises:
        DataError: the bytes are anything but one whole IDX array with elements below num_classes.
    """
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            message = f"{name}: the gzip data are corrupt or cut short ({error})"
            raise DataError(message, AGAIN) from error
    magic = bytes((0, 0, UNSIGNED_BYTE, rank))
    if data[:4] != magic:
        kind = "images" if rank == 3 else "labels"
        raise DataError(
            f"{name}: starts with {data[:4].hex(' ') or 'nothing'}, but an IDX file of {kind} "
            f"(unsigned bytes) with {magic.hex(' ')}",
            f"{AGAIN}; were two files swapped?",
        )
    start = 4 + 4 * rank
    # Padded: where a header is cut short, a dim becomes 0 or the elements are too few.
    shape = struct.unpack(f">{rank}I", data[4:start].ljust(4 * rank, b"\0"))
    size = max(len(data) - start, 0)
    if size != math.prod(shape) or size == 0:
        dims = " x ".join(map(str, shape))
        raise DataError(
            f"{name}: {size:,} bytes of elements, but the header declares {dims}", AGAIN
        )
    array = np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
    if array.max() >= num_classes:
        wrong = int(np.argmax(array >= num_classes))
        raise DataError(
            f"{name}: label {array[wrong]} at index {wrong}: expected 0 to {num_classes - 1}",
            "correct the file or set data.num_classes",
        )
    return array


def sha256(array: Bytes) -> str:
    """Return the SHA-256 of the plain IDX file that holds just this C-contiguous array."""
    digest = hashlib.sha256(header(array.shape))
    digest.update(array.data)
    return digest.hexdigest()


def header(shape: tuple[int, ...]) -> bytes:
    """Return what comes before the elements in the plain file of an array of this shape."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, UNSIGNED_BYTE, len(shape), *shape)
