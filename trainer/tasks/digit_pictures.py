"""Pictures of a digit -> MNIST's form: 28 x 28, bright on black, centred by mass in 20 x 20.

MNIST's own digits were made this way: scaled so that the longer side is 20 pixels, then placed so
that the centre of their mass is the centre of 28 x 28 pixels.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from trainer.job.errors import DataError

SAMPLE_SIDE = 400  # pixels of what is looked at: plenty to choose a colour
ONE_COLOUR = 64  # of 255: the opaque part of a picture that varies less has no digit on it
SHEET = 11 / 32  # of its longer side: an opaque part with such a square in it is no digit's stroke
UNIFORM = 16  # of 255: what varies less is one colour, exactly

Floats = npt.NDArray[np.floating[Any]]


def flat(picture: Image.Image) -> Image.Image:
    """Return the picture in 8-bit RGB, on an opaque background."""
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # which pillow would cut off at 255
        values = np.asarray(picture, np.float64)
        span = max(float(np.ptp(values)), 1.0)
        picture = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    flat = Image.new("RGB", picture.size, _behind(picture))
    flat.paste(picture, mask=picture)
    return flat


def _behind(picture: Image.Image) -> tuple[int, ...]:
    """Return the colour to put behind an RGBA picture.

    Where the opaque part is a sheet with a digit on it, that is the colour of the sheet. Otherwise
    it is the digit, and what is behind gets the colour that is hidden there, if it differs: edges
    that are not transparent are mixed with it. Failing that, it gets the opposite.
    """
    small = picture.resize(at_most(picture.size, SAMPLE_SIDE), Image.Resampling.NEAREST)
    values = np.asarray(small, np.float32)
    colours, alpha = values[..., :3], values[..., 3]
    mask = alpha >= max(float(alpha.max()) / 2, 1)
    opaque, hidden = colours[mask], colours[alpha == 0]
    colour = np.median(opaque, axis=0) if len(opaque) else np.zeros(3)
    around = not (mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all())
    behind = np.full(3, 0.0 if colour.mean() > 127 else 255.0)
    if around and (distance(opaque, colour) >= ONE_COLOUR).any() and _is_sheet(mask):
        behind = colour
    elif len(hidden):
        beneath = np.median(hidden, axis=0)
        uniform = np.mean(distance(hidden, beneath) < UNIFORM) > 0.9
        if uniform and distance(beneath, colour) >= ONE_COLOUR / 2:
            behind = beneath
    return tuple(int(value) for value in behind)


def _is_sheet(mask: npt.NDArray[np.bool_]) -> bool:
    """Return whether a square fits in that is wider than a digit's strokes."""
    shape = Image.fromarray(mask)
    shape = shape.crop(shape.getbbox())
    shape = shape.convert("L").resize(at_most(shape.size, 32, enlarge=True))
    width = round(SHEET * 32)
    eroded = ImageOps.expand(shape, width).filter(ImageFilter.MinFilter(width))
    return int(eroded.getextrema()[1]) > 127  # type: ignore[arg-type]  # of one band


def at_most(size: tuple[int, int], side: int, enlarge: bool = False) -> tuple[int, int]:
    """Return the size whose longer side is so long, or less if it is not to be enlarged."""
    scale = side / max(size)
    if scale >= 1 and not enlarge:
        return size
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def distance(colours: Floats, background: Floats) -> Floats:
    """Return how far colours (..., 3) are from one, 0 to 255."""
    return np.sqrt(((colours - background) ** 2).mean(axis=-1)).astype(np.float32)


SIDE = 28
CENTRE = 14  # the index of the pixel that MNIST's digits have their mass around
BOX = 20  # pixels of the digit's longer side
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 50_000_000  # what a picture's header may claim before anything is unpacked
WORKING_SIDE = 400  # pixels; what is larger is reduced first: it is plenty for 20
LOOKS = 4  # at a picture: the whole, inside a frame, and nearer to a digit that is small on it
FAINT = 0.2  # of full brightness: less may be grain or a JPEG's ripples, no part of the digit
CONTRAST = 16  # of 255: less is taken for an empty picture
NEAR = 40  # pixels of the digit: fewer of a larger picture, and it is looked at again
FRAMED = 0.75  # of a frame's inside: the paper on it is at least so much
BLUR_SIDE = 100  # pixels: a picture this large is smoothed by one pixel, against grain
NOISE = 6  # median deviations of the background that count as background still

Bytes = npt.NDArray[np.uint8]


def read(path: Path) -> Bytes:
    """Return the digit in a PNG or JPEG file in MNIST's form, uint8 (28, 28).

    Raises:
        DataError: it cannot be read, is neither, is too large, or is empty.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pillow warns of is refused or harmless here
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"{path}: {picture.width:,} x {picture.height:,} pixels, expected at most "
                        f"{MAX_PIXELS:,} in all: crop or reduce the picture"
                    )
                return to_mnist(ImageOps.exif_transpose(picture))
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large ({error}): crop or reduce the picture") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a PNG, JPEG or IDX file: convert it to one") from None
    except EmptyPictureError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # pillow raises anything on broken files
        told = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({told}): correct or replace the file") from None


class EmptyPictureError(ValueError):
    """There is nothing on the picture that differs from its background, or no background."""


def to_mnist(picture: Image.Image) -> Bytes:
    """Return a picture of one digit in MNIST's form, uint8 (28, 28).

    The picture may be of any mode and size, transparent, of any two colours that differ.

    Raises:
        EmptyPictureError: it is of one colour, or shows no background.
    """
    return _centred(_fitted(_cut_out(flat(picture))))


def _cut_out(picture: Image.Image) -> Floats:
    """Return the ink of the digit on an RGB picture, within its box.

    Raises:
        EmptyPictureError: there is none.
    """
    box, digit = (0, 0, *picture.size), np.zeros((0, 0), np.float32)
    for _ in range(LOOKS):
        size = box[2] - box[0], box[3] - box[1]
        part = picture.resize(
            at_most(size, WORKING_SIDE), Image.Resampling.BOX, box, reducing_gap=3.0
        )
        try:
            ink = _ink(np.asarray(part, np.float32))
        except EmptyPictureError:
            if digit.size == 0:
                raise
            break  # what was taken for a frame has been the digit
        rows, cols = (np.flatnonzero((ink > FAINT).any(axis=axis)) for axis in (1, 0))
        digit = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        framed = _is_framed_paper(digit)
        margin = -1 if framed else max(digit.shape) // 8 + 2
        scale = size[0] / part.width
        nearer = (
            box[0] + max(0, int((cols[0] - margin) * scale)),
            box[1] + max(0, int((rows[0] - margin) * scale)),
            box[0] + min(size[0], int((cols[-1] + 1 + margin) * scale)),
            box[1] + min(size[1], int((rows[-1] + 1 + margin) * scale)),
        )
        if not framed and max(digit.shape) >= min(NEAR, min(part.size) / 2):
            break
        box = nearer
    return digit


def _is_framed_paper(ink: Floats) -> bool:
    """Return whether what differs from the border is a sheet of paper, with a frame around it."""
    if min(ink.shape) < max(ink.shape) / 3 or min(ink.shape) < BOX / 2:
        return False
    inset = 1 + min(ink.shape) // 50
    inner = ink[inset:-inset, inset:-inset] > 0.5
    edges = (inner[0], inner[-1], inner[:, 0], inner[:, -1])
    return bool(inner.mean() > FRAMED and all(edge.mean() > 0.97 for edge in edges))


def _ink(colours: Floats) -> Floats:
    """Return how much each pixel differs from the background, 0 to 1: bright on black.

    It does not matter which of the two is darker, nor that they differ in hue only.

    Raises:
        EmptyPictureError: it is of one colour, or shows no background.
    """
    border = np.concatenate([colours[0], colours[-1], colours[1:-1, 0], colours[1:-1, -1]])
    background = np.median(border, axis=0)
    far = distance(colours, background)
    if grain := min(far.shape) // BLUR_SIDE:
        smooth = Image.fromarray(far).convert("L").filter(ImageFilter.BoxBlur(grain / 2))
        far = np.asarray(smooth, np.float32)
    limit = _otsu(far)
    paper, digit = far[far < limit], far[far >= limit]
    if len(paper) == 0:  # a few pixels, or a border of two colours, whose median is neither
        raise EmptyPictureError(
            "no background is seen on it: give a digit with a margin of one colour around it"
        )
    if len(digit) == 0 or np.median(digit) - np.median(paper) < CONTRAST:
        raise EmptyPictureError("it is of one colour: there is no digit on it")
    deviation = np.median(np.abs(paper - np.median(paper)))
    low = min(np.median(paper) + NOISE * deviation, limit)
    return np.clip((far - low) / (np.median(digit) - low), 0, 1)


def _otsu(values: Floats) -> float:
    """Return the limit, of 0 to 255, that parts values best into two kinds (Otsu's method)."""
    counts = np.bincount(values.astype(np.int64).ravel(), minlength=256).astype(np.float64)
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * np.arange(256))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below - sums * total) ** 2 / (below * (total - below))
    return float(np.argmax(np.nan_to_num(between, nan=0.0, posinf=0.0))) + 1.0


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
