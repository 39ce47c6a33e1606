"""PNG and JPEG files -> pictures, and pictures -> arrays of the form that a data set has."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.data.dataset import Bytes
from trainer.job.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # what a picture's header may declare before anything is decoded
PLAIN = ("1", "L", "P", "RGB", "RGBA", "LA")  # modes of 8 bits a channel at most

MOST_THREADS = 16
PICTURES_AT_ONCE = 256  # in the queue of the threads: after an error, only these are still read

Converted = TypeVar("Converted")


class PictureError(ValueError):
    """A picture is too large, or not one that its reader can use."""


def read(path: Path, convert: Callable[[Image.Image], Converted]) -> Converted:
    """Return what `convert` makes of the picture in a PNG or JPEG file, turned upright.

    Raises:
        DataError: it cannot be read, is neither, is too large, or `convert` raises PictureError.
    """
    with quietly():
        return read_one(str(path), path.read_bytes, convert, "PNG, JPEG or IDX")[1]


@contextmanager
def quietly() -> Iterator[None]:
    """Suppress Pillow's warnings of large pictures, which MAX_PIXELS refuses, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_one(
    name: str,
    read_file: Callable[[], bytes],
    convert: Callable[[Image.Image], Converted],
    kinds: str = "PNG or JPEG",
) -> tuple[bytes, Converted]:
    """Return the bytes of a file, and what `convert` makes of its picture. Needs `quietly`.

    Messages call the file `name`; `kinds` are the kinds of files that are right. Raises as `read`.
    """
    try:
        data = read_file()
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width:,} x {picture.height:,} pixels"
                raise PictureError(f"{size}, expected at most {MAX_PIXELS:,}: reduce it")
            picture.load()
            upright: Image.Image = picture
            with suppress(Exception):  # broken EXIF data say nothing about the pixels
                upright = ImageOps.exif_transpose(picture)
            return data, convert(upright)
    except Exception as error:  # Pillow raises anything on broken files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = f"cannot be read ({reason}): correct or replace it"
        if isinstance(error, UnidentifiedImageError):
            text = f"not a {kinds} file: convert it to one"
        elif isinstance(error, PictureError):
            text = str(error)
        raise DataError(f"{name}: {text}") from None


def is_shape(shape: Sequence[int]) -> bool:
    """Return whether an array of this shape is a grey image (rows, cols) or one in RGB."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def as_it_is(
    picture: Image.Image,
    shape: Sequence[int],
    other: str = "the images of the data set",
    hint: str = "resize it, or see --find-digit",
) -> Bytes:
    """Return the pixels of a picture that has the size of a data set's images, uint8 of `shape`.

    The message for another size says what has the right one, `other`, and the way out, `hint`.

    Raises:
        PictureError: it has another size, parts that are transparent, or more than 8 bits.
    """
    if (picture.height, picture.width) != tuple(shape[:2]):
        size = f"{picture.width} x {picture.height} pixels"
        raise PictureError(f"{size}, {other} {shape[1]} x {shape[0]}: {hint}")
    return pixels(picture, shape)


def fitted(picture: Image.Image, shape: Sequence[int]) -> Bytes:
    """Return the pixels of a picture, scaled and cropped to the size of `shape`, uint8.

    It is scaled by one factor, so that it just covers the size, and cropped around its centre.

    Raises:
        PictureError: it has parts that are transparent, or more than 8 bits.
    """
    size = (shape[1], shape[0])
    if picture.size != size:
        check_form(picture)
        picture = ImageOps.fit(
            picture.convert("RGB"), size, Image.Resampling.BILINEAR, centering=(0.5, 0.5)
        )
    return pixels(picture, shape)


def pixels(picture: Image.Image, shape: Sequence[int]) -> Bytes:
    """Return the pixels of a picture of the size of `shape`, in grey or RGB, uint8.

    Raises:
        PictureError: it has parts that are transparent, or more than 8 bits.
    """
    check_form(picture)
    mode = "RGB" if tuple(shape[2:]) == (3,) else "L"
    return np.asarray(picture.convert(mode)).reshape(shape)


def check_form(picture: Image.Image) -> None:
    """Raise PictureError for a picture with transparent parts, or more than 8 bits a channel."""
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    if picture.mode not in PLAIN:
        hint = "convert it to RGB or grey with 8 bits a channel"
        raise PictureError(f"the mode {picture.mode}: {hint}")
    if alpha is not None and np.asarray(alpha).min() < 255:
        raise PictureError("transparent parts, which the data set has not: fill them")


def decode(
    pictures: Iterable[tuple[str, Callable[[], bytes]]],
    convert: Callable[[Image.Image], Bytes],
    out: Bytes,
    done: Callable[[int], None],
) -> list[str]:
    """Write the pixels of many pictures to an array (N, ...), and return their SHA-256.

    Args:
        pictures: for each a name for messages, and what reads the bytes of its file.
        convert: what makes the pixels of one.
        out: the array; it may be mapped from a file.
        done: called with the number of bytes that were read; may raise.

    Raises:
        DataError: a picture cannot be read, or `convert` raises PictureError; names it.
    """

    def one(numbered: tuple[int, tuple[str, Callable[[], bytes]]]) -> tuple[str, int]:
        number, (name, read_file) = numbered
        data, out[number] = read_one(name, read_file, convert)
        return hashlib.sha256(data).hexdigest(), len(data)

    digests, waiting = list[str](), enumerate(pictures)
    workers = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    # Pillow decodes without Python's lock, so threads are enough.
    with quietly(), ThreadPoolExecutor(workers, "decode") as pool:
        while part := list(islice(waiting, PICTURES_AT_ONCE)):
            for digest, size in pool.map(one, part):
                digests.append(digest)
                done(size)
    return digests
