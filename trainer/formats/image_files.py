"""PNG and JPEG files -> pictures, and pictures -> arrays of the form that a data set has."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trainer.data.dataset import Bytes
from trainer.job.errors import DataError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # what a picture's header may declare before anything is decoded
PLAIN = ("1", "L", "P", "RGB", "RGBA", "LA")  # modes of 8 bits a channel at most

Converted = TypeVar("Converted")


class PictureError(ValueError):
    """A picture is too large, or not one that its reader can use."""


def read(path: Path, convert: Callable[[Image.Image], Converted]) -> Converted:
    """Return what `convert` makes of the picture in a PNG or JPEG file, turned upright.

    Raises:
        DataError: it cannot be read, is neither, is too large, or `convert` raises PictureError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of large pictures, which MAX_PIXELS refuses
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    size = f"{picture.width:,} x {picture.height:,} pixels"
                    raise PictureError(f"{size}, expected at most {MAX_PIXELS:,}: reduce it")
                picture.load()
                upright: Image.Image = picture
                with suppress(Exception):  # broken notes of a camera say nothing of the pixels
                    upright = ImageOps.exif_transpose(picture)
                return convert(upright)
    except Exception as error:  # Pillow raises anything on broken files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        text = f"cannot be read ({reason}): correct or replace it"
        if isinstance(error, UnidentifiedImageError):
            text = "not a PNG, JPEG or IDX file: convert it to one"
        elif isinstance(error, PictureError):
            text = str(error)
        raise DataError(f"{path}: {text}") from None


def is_shape(shape: Sequence[int]) -> bool:
    """Return whether an array of this shape is a grey image (rows, cols) or one in RGB."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))


def as_it_is(picture: Image.Image, shape: Sequence[int]) -> Bytes:
    """Return the pixels of a picture that has the size of a data set's images, uint8 of `shape`.

    Raises:
        PictureError: it has another size, parts that are transparent, or more than 8 bits.
    """
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    problem = ""
    if (picture.height, picture.width) != tuple(shape[:2]):
        right = f"the images of the data set {shape[1]} x {shape[0]}"
        problem = (
            f"{picture.width} x {picture.height} pixels, {right}: resize it, or see --find-digit"
        )
    elif picture.mode not in PLAIN:
        problem = f"the mode {picture.mode}, which the data set has not: convert it to 8 bits"
    elif alpha is not None and np.asarray(alpha).min() < 255:
        problem = "transparent parts, which the data set has not: fill them"
    if problem:
        raise PictureError(problem)
    mode = "RGB" if tuple(shape[2:]) == (3,) else "L"
    return np.asarray(picture.convert(mode)).reshape(shape)
