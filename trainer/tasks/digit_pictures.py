"""Files of images -> arrays. A picture of a digit gets MNIST's form: bright on black, 28 x 28.

MNIST's own digits were made this way: scaled so that the longer side is 20 pixels, then placed so
that the centre of their mass is the centre of 28 x 28 pixels.
"""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from trainer.data import idx
from trainer.data.dataset import Bytes, Examples
from trainer.job.errors import DataError

SIDE = 28
CENTRE = 14  # the index of the pixel that MNIST's digits have their mass around
BOX = 20  # pixels of the digit's longer side
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # what a picture's header may declare before anything is decoded
CONTRAST = 16  # of 255: a picture that varies less is empty
FAINT = 0.2  # of full brightness: less may be grain or a JPEG's ripples, no part of the digit
NOISE = 6  # median deviations of the paper that still count as paper
BLUR_SIDE = 100  # pixels: a picture this large is smoothed by one pixel, against grain
WORKING_SIDE = 1600  # pixels; larger pictures are reduced first
SMALL = 4  # a digit is small if the picture is so many times larger
FRAMED = 0.75  # of a frame's inside: the paper in it fills at least so much

Floats = npt.NDArray[np.float32]


class PictureError(ValueError):
    """There is no digit on the picture, or it is too large."""


def is_image(example: Mapping[str, Any], fields: Iterable[str]) -> bool:
    """Return whether these fields of an example are one grey image: `image`, uint8 (rows, cols)."""
    if (*fields,) != ("image",):
        return False
    return example["image"].dtype == np.uint8 and len(example["image"].shape) == 2


def read(path: Path) -> Examples:
    """Return the images in a file, `image`: uint8 (N, rows, cols).

    An IDX file, plain or gzip, is taken as it is; a PNG or JPEG file shows one digit.

    Raises:
        DataError: it cannot be read, is none of these, is too large, or is empty.
    """
    contents = idx.read(path)
    if contents[:2] in (idx.GZIP_MAGIC, b"\0\0"):
        return {"image": idx.parse(contents, str(path), rank=3)}
    return {"image": read_picture(path)[np.newaxis]}


def read_picture(path: Path) -> Bytes:
    """Return the digit in a PNG or JPEG file in MNIST's form, uint8 (28, 28).

    Raises:
        DataError: it cannot be read, is neither, is too large, or is empty.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of large pictures, which MAX_PIXELS refuses
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    size = f"{picture.width:,} x {picture.height:,} pixels"
                    raise PictureError(f"{size}, expected at most {MAX_PIXELS:,}: reduce it")
                return to_mnist(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a PNG, JPEG or IDX file: convert it to one") from None
    except PictureError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # Pillow raises anything on broken files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}): correct or replace it") from None


def to_mnist(picture: Image.Image) -> Bytes:
    """Return a picture of one digit in MNIST's form, uint8 (28, 28).

    The picture may be of any mode and size, transparent, of any two colours that differ.

    Raises:
        PictureError: it is of one colour, or shows no background.
    """
    picture = _opaque(picture)
    picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    return _centred(_fitted(_cut_out(np.asarray(picture, np.float32))))


def _opaque(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB; of a transparent one in a single colour, its alpha channel."""
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # which Pillow would cut off at 255
        values = np.asarray(picture, np.float64)
        span = max(float(np.ptp(values)), 1.0)
        picture = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    pixels = np.asarray(picture)
    flat = np.ptp(pixels[..., :3], axis=(0, 1)).max() < CONTRAST
    return (picture.getchannel("A") if flat else picture).convert("RGB")


def _cut_out(pixels: Floats) -> Floats:
    """Return the ink of the digit on RGB pixels (rows, cols, 3), 0 to 1, within its box.

    The ink of a pixel is how far its colour is from the background's, the median of the border: so
    it does not matter which of the two is darker, nor that they differ in hue only.

    Raises:
        PictureError: there is none.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    far = np.sqrt(np.mean((pixels - np.median(border, axis=0)) ** 2, axis=-1)).astype(np.uint8)
    blur = ImageFilter.BoxBlur(min(far.shape) // BLUR_SIDE / 2)
    far = np.asarray(Image.fromarray(far).filter(blur))
    limit = _otsu(far)
    paper, digit = far[far < limit], far[far >= limit]
    if not len(paper) or not len(digit) or np.median(digit) - np.median(paper) < CONTRAST:
        message = "there is no digit on it, or no margin of one colour around the digit"
        raise PictureError(message)
    dark, bright = np.median(paper), np.median(digit)
    dark = min(dark + NOISE * np.median(np.abs(paper - dark)), limit)
    ink = np.clip((far.astype(np.float32) - dark) / (bright - dark), 0, 1)
    rows, cols = (np.flatnonzero((ink > FAINT).any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    ink = ink[top:bottom, left:right]
    framed = _is_framed_paper(ink)
    if framed or SMALL * max(ink.shape) < max(far.shape):  # look again, at the digit alone
        margin = -1 - min(ink.shape) // 50 if framed else 1 + max(ink.shape) // 2
        top, left = max(top - margin, 0), max(left - margin, 0)
        return _cut_out(pixels[top : bottom + margin, left : right + margin])
    return ink


def _otsu(values: Bytes) -> int:
    """Return the limit that divides values best into two kinds (Otsu's method)."""
    counts = np.bincount(values.ravel(), minlength=256)
    below = np.cumsum(counts, dtype=np.float64)
    sums = np.cumsum(counts * np.arange(256), dtype=np.float64)
    above = below[-1] - below
    between = (sums[-1] * below - sums * below[-1]) ** 2 / np.maximum(below * above, 1)
    return int(np.argmax(between)) + 1


def _is_framed_paper(ink: Floats) -> bool:
    """Return whether what differs from the border is a sheet of paper, with a frame around it."""
    if min(ink.shape) < max(ink.shape) / 3 or min(ink.shape) < BOX / 2:
        return False
    inset = 1 + min(ink.shape) // 50
    inner = ink[inset:-inset, inset:-inset] > 0.5
    edges = (inner[0], inner[-1], inner[:, 0], inner[:, -1])
    return bool(inner.mean() > FRAMED and all(edge.mean() > 0.97 for edge in edges))


def _fitted(digit: Floats) -> Floats:
    """Scale so that the longer side is 20 pixels; a stroke keeps its full brightness."""
    rows, cols = digit.shape
    scale = BOX / max(rows, cols)
    size = max(round(cols * scale), 1), max(round(rows * scale), 1)
    small = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BILINEAR))
    return np.clip(small / max(float(small.max()), 1e-6), 0, 1)


def _centred(digit: Floats) -> Bytes:
    """Place it on 28 x 28 pixels so that its centre of mass is as near the centre as it can be."""
    field = np.zeros((SIDE, SIDE), np.float32)
    corner = []
    for axis, length in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis)
        centre = float(mass @ np.arange(length) / mass.sum())
        corner.append(int(np.clip(round(CENTRE - centre), 0, SIDE - length)))
    row, col = corner
    field[row : row + digit.shape[0], col : col + digit.shape[1]] = digit
    return np.rint(field * 255).astype(np.uint8)
