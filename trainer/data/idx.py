"""IDX bytes -> arrays, strictly: a file is exactly what its header says, or it is refused.

The format: two zero bytes, the element type, the number of dims, each dim as a big-endian uint32,
then the elements. Only unsigned bytes are read, plain or as one gzip member; which of the two is
told by the contents, not by the name.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from trainer.data.dataset import Bytes
from trainer.job.errors import DataError

MAX_BYTES = 2 << 30  # of elements: what the header may claim before anything is unpacked
GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
KINDS = {1: "labels", 3: "images"}
AGAIN = "copy or download the file again"


def read_images(path: Path) -> Bytes:
    """Return the images of a file, uint8 (N, rows, cols), read-only.

    Raises:
        DataError: the file cannot be read or is not exactly an IDX file of images.
    """
    return parse(_read(path), str(path), rank=3)


def read_labels(path: Path, num_classes: int) -> Bytes:
    """Return the labels of a file, uint8 (N,), each in [0, num_classes), read-only.

    Raises:
        DataError: the file cannot be read, is not exactly an IDX file of labels, or has others.
    """
    labels = parse(_read(path), str(path), rank=1)
    wrong = np.flatnonzero(labels >= num_classes)
    if wrong.size:
        raise DataError(
            f"{path}: label {labels[wrong[0]]} at index {wrong[0]} ({wrong.size:,} such labels): "
            f"expected 0 to {num_classes - 1}",
            "correct the file or set data.num_classes",
        )
    return labels


def parse(data: bytes, name: str, rank: int) -> Bytes:
    """Return the array in the bytes of the file `name`, uint8 with `rank` dims, read-only.

    Raises:
        DataError: the bytes are anything but one whole IDX array, plain or gzip.
    """
    if not data:
        raise DataError(f"{name}: the file is empty: expected an IDX file", AGAIN)
    if not data.startswith(GZIP_MAGIC):
        shape = _shape(data, name, rank)
        body: bytes | memoryview = memoryview(data)[4 + 4 * rank :]
    else:
        gunzip = zlib.decompressobj(wbits=31)
        try:
            # Header first, then no more than it declares and one byte: a bomb is never unpacked.
            head = gunzip.decompress(data, 4 + 4 * rank)
            if not head and not gunzip.eof:
                raise DataError(f"{name}: the gzip data are cut short", AGAIN)
            shape = _shape(head, name, rank)
            body = gunzip.decompress(gunzip.unconsumed_tail, math.prod(shape) + 1)
        except zlib.error as error:
            raise DataError(f"{name}: the gzip data are corrupt ({error})", AGAIN) from error
        if not gunzip.eof and len(body) <= math.prod(shape):
            told = f"{len(body):,} bytes of elements found, {math.prod(shape):,} expected"
            if len(body) == math.prod(shape):
                told = "all elements are there, but not the checksum behind them"
            raise DataError(f"{name}: the gzip data are cut short: {told}", AGAIN)
        if gunzip.unused_data:
            raise DataError(
                f"{name}: {len(gunzip.unused_data):,} bytes follow the end of the gzip data: "
                "expected none",
                AGAIN,
            )
    declared = math.prod(shape)
    if len(body) != declared:
        found = f"{len(body):,} bytes" if len(body) < declared else "more bytes"
        dims = " x ".join(map(str, shape))
        raise DataError(
            f"{name}: {found} of elements found, {declared:,} expected: the header says {dims}",
            AGAIN,
        )
    array = np.frombuffer(body, dtype=np.uint8).reshape(shape)
    array.setflags(write=False)
    return array


def sha256(array: Bytes) -> str:
    """Return the SHA-256 of the plain IDX file that holds just this C-contiguous array."""
    digest = hashlib.sha256(header(array.shape))
    digest.update(array.data)
    return digest.hexdigest()


def header(shape: tuple[int, ...]) -> bytes:
    """Return what stands before the elements in the plain file of an array of this shape."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, UNSIGNED_BYTE, len(shape), *shape)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{path}: not a regular file: expected an IDX file")
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size:,} bytes found, expected at most {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        told = f"{path}: cannot be read ({error.strerror}): expected a readable IDX file"
        raise DataError(told, "correct the path or its permissions") from error


def _shape(head: bytes, name: str, rank: int) -> tuple[int, ...]:
    """Return the dims a header declares; `head` may go on after its end, or stop before it."""
    magic = bytes((0, 0, UNSIGNED_BYTE, rank))
    found = f"starts with {head[:4].hex(' ')}, expected {magic.hex(' ')}"
    if head[:2] != magic[:2]:
        raise DataError(f"{name}: {found}: this is not an IDX file", AGAIN)
    if head[2:3] != magic[2:3]:
        raise DataError(f"{name}: {found}", "write the elements as unsigned bytes (type 08)")
    if head[3:4] != magic[3:4]:
        told = f"{name}: {found}: this is no file of {KINDS.get(rank, f'rank {rank}')}"
        raise DataError(told, "were two files swapped?")
    size = 4 + 4 * rank
    if len(head) < size:
        raise DataError(f"{name}: {len(head)} bytes of header found, {size} expected", AGAIN)
    shape = struct.unpack(f">{rank}I", head[4:size])
    dims = " x ".join(map(str, shape))
    if 0 in shape:
        raise DataError(f"{name}: the header says {dims}, expected no dim of 0", AGAIN)
    if math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{name}: the header says {dims} bytes, expected at most {MAX_BYTES:,}", AGAIN
        )
    return shape
