"""Files of images -> arrays. A picture of a digit may get MNIST's form: bright on black, 28 x 28.

MNIST's own digits were made this way: scaled so that the longer side is 20 pixels, then placed so
that the centre of their mass is the centre of 28 x 28 pixels.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from trainer.data.dataset import Bytes, Examples
from trainer.formats import idx, image_files
from trainer.formats.image_files import PictureError

SIDE = 28
CENTRE = 14  # the index of the pixel that MNIST's digits have their mass around
BOX = 20  # pixels of the digit's longer side
CONTRAST = 16  # of 255: a picture that varies less is empty
FAINT = 0.2  # of full brightness: less may be grain or a JPEG's ripples, no part of the digit
NOISE = 6  # median deviations of the paper that still count as paper
BLUR_SIDE = 100  # pixels: a picture this large is smoothed by one pixel, against grain
WORKING_SIDE = 1600  # pixels; larger pictures are reduced first
UNEVEN = 0.05  # of the contrast: the colour of the paper varies so much along the border
SMALL = 4  # a digit is small if the picture is so many times larger
FRAMED = 0.75  # of a frame's inside: the paper in it fills at least so much

Floats = npt.NDArray[np.float32]


def is_image(example: Mapping[str, Any], fields: Iterable[str]) -> bool:
    """Return whether these fields of an example are one image: `image`, uint8, grey or RGB."""
    if (*fields,) != ("image",):
        return False
    return example["image"].dtype == np.uint8 and image_files.is_shape(example["image"].shape)


def read(
    path: Path,
    shape: Sequence[int],
    *,
    find_digit: bool,
    warn: Callable[[str], None],
    fit: bool = False,
) -> Examples:
    """Return the images in a file, `image`: uint8 (N, rows, cols), or RGB (N, rows, cols, 3).

    An IDX file, plain or gzip, is taken as it is, and so is a PNG or JPEG file that has the form of
    the data set already. With `find_digit` other pictures get MNIST's form.

    Args:
        path: of the file.
        shape: of the images of the data set.
        find_digit: whether the data set's images have MNIST's form.
        warn: called if the light on the paper is uneven.
        fit: whether pictures are scaled and cropped to `shape`, as those of the data set were.

    Raises:
        DataError: it cannot be read, is none of these, is too large, has no digit on it, or,
            without `find_digit` and `fit`, has another size than `shape`.
    """
    contents = idx.read(path)
    if contents[:2] in (idx.GZIP_MAGIC, b"\0\0"):
        return {"image": idx.images(idx.parse(contents, str(path)), str(path))}
    if find_digit:
        convert = partial(to_mnist, warn=lambda text: warn(f"{path}: {text}"))
    else:
        convert = partial(image_files.fitted if fit else image_files.as_it_is, shape=shape)
    return {"image": image_files.read(path, convert)[np.newaxis]}


def to_mnist(picture: Image.Image, warn: Callable[[str], None]) -> Bytes:
    """Return a picture of one digit in MNIST's form, uint8 (28, 28); as it is if it has that.

    The picture may be of any mode and size, transparent, of any two colours that differ. `warn` is
    called if the light on the paper is uneven.

    Raises:
        PictureError: it is of one colour, or shows no background.
    """
    if picture.mode in ("L", "RGB") and not picture.has_transparency_data:
        pixels = np.asarray(picture.convert("L"))
        if _has_form(pixels):
            return pixels
    picture = _opaque(picture)
    picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    return _centred(_fitted(_cut_out(np.asarray(picture, np.float32), warn)))


def _has_form(pixels: Bytes) -> bool:
    """Return whether a grey image has the size of MNIST's digits, and their place in it."""
    if pixels.shape != (SIDE, SIDE) or not pixels.any():
        return False
    spans = [np.ptp(np.flatnonzero(pixels.any(axis=axis))) + 1 for axis in (0, 1)]
    # Half a pixel: the place was rounded.
    near = all(abs(centre - CENTRE) <= 0.51 for centre in _centre_of_mass(pixels))
    return near and BOX - 1 <= int(max(spans)) <= BOX


def _opaque(picture: Image.Image) -> Image.Image:
    """Return the picture in RGB; of a transparent one in a single colour, its alpha channel."""
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):  # which Pillow would cut off at 255
        values = np.asarray(picture, np.float64)
        # Without the darkest and the brightest: one dead pixel would leave no contrast to the rest.
        dark = np.percentile(values, 0.001, method="higher")
        bright = np.percentile(values, 99.999, method="lower")
        scaled = (values - dark) / max(bright - dark, 1.0) * 255
        picture = Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    pixels = np.asarray(picture)
    flat = np.ptp(pixels[..., :3], axis=(0, 1)).max() < CONTRAST
    return (picture.getchannel("A") if flat else picture).convert("RGB")


def _cut_out(pixels: Floats, warn: Callable[[str], None]) -> Floats:
    """Return the ink of the digit on RGB pixels (rows, cols, 3), 0 to 1, within its box.

    The ink of a pixel is how far its colour is from the background's, the median of the border: so
    it does not matter which of the two is darker, nor that they differ in hue only.

    Raises:
        PictureError: there is none.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    difference = pixels - np.median(border, axis=0)
    plane, spread, rest = _light(difference)
    uneven = spread > UNEVEN * float(np.abs(difference).max())
    if uneven and rest < spread / 2:  # else it is no light: the digit may touch the border
        difference = difference - plane
    far = np.sqrt(np.mean(difference**2, axis=-1)).clip(0, 255).astype(np.uint8)
    blur = ImageFilter.BoxBlur(min(far.shape) // BLUR_SIDE / 2)
    far = np.asarray(Image.fromarray(far).filter(blur))
    limit = _otsu(far)
    paper, digit = far[far < limit], far[far >= limit]
    if not len(paper) or not len(digit) or np.median(digit) - np.median(paper) < CONTRAST:
        raise PictureError("there is no digit on it, or no margin of one colour around the digit")
    dark, bright = np.median(paper), np.median(digit)
    dark = min(dark + NOISE * np.median(np.abs(paper - dark)), limit)
    ink = np.clip((far.astype(np.float32) - dark) / (bright - dark), 0, 1)
    rows, cols = (np.flatnonzero((ink > FAINT).any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    ink = ink[top:bottom, left:right]
    framed = _is_framed_paper(ink)
    if framed or SMALL * max(ink.shape) < max(far.shape):  # look again, at the digit alone
        # A negative margin cuts the frame off, a positive one leaves paper around the digit.
        margin = -1 - min(ink.shape) // 50 if framed else 1 + max(ink.shape) // 2
        top, left = max(top - margin, 0), max(left - margin, 0)
        return _cut_out(pixels[top : bottom + margin, left : right + margin], warn)
    if uneven:
        warn("the light or the paper is uneven, so what was read may be wrong: see --show")
    return ink


def _light(pixels: Floats) -> tuple[Floats, float, float]:
    """Return a plane fitted to the colours of the border, (rows, cols, 3), and two distances.

    They say how far the border is from zero, and how far from the plane: of the distances of 16
    parts of the border, the third largest. The digit may reach the other two parts.
    """
    rows, cols = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j].astype(np.float32)
    grid = np.stack([np.ones_like(x), y, x], axis=-1)
    both, deep = np.concatenate([grid, pixels], axis=-1), 1 + min(rows, cols) // 40
    across = both.swapaxes(0, 1)
    sides = (across[:, :deep], across[:, -deep:], both[:, :deep], both[:, -deep:])
    parts = [part.reshape(-1, 6) for side in sides for part in np.array_split(side, 4) if len(part)]
    medians = np.array([np.median(part, axis=0) for part in parts])
    plane = np.linalg.lstsq(medians[:, :3], medians[:, 3:])[0]
    rest = medians[:, 3:] - medians[:, :3] @ plane
    far = [np.sqrt(np.mean(values**2, axis=-1)) for values in (medians[:, 3:], rest)]
    return grid @ plane.astype(np.float32), *(float(np.sort(values)[-3:][0]) for values in far)


def _otsu(values: Bytes) -> int:
    """Return the limit that divides values best into two kinds (Otsu's method)."""
    counts = np.bincount(values.ravel(), minlength=256)
    below = np.cumsum(counts, dtype=np.float64)
    sums = np.cumsum(counts * np.arange(256), dtype=np.float64)
    above = below[-1] - below
    # The variance between both kinds, but for a constant factor: largest where they differ most.
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
    """Place the digit on 28 x 28 pixels, its centre of mass as near the centre as it can be."""
    field = np.zeros((SIDE, SIDE), np.float32)
    row, col = (
        int(np.clip(round(CENTRE - centre), 0, SIDE - length))
        for centre, length in zip(_centre_of_mass(digit), digit.shape, strict=True)
    )
    field[row : row + digit.shape[0], col : col + digit.shape[1]] = digit
    return np.rint(field * 255).astype(np.uint8)


def _centre_of_mass(pixels: npt.NDArray[Any]) -> list[float]:
    """Return the row and the column of the centre of mass."""
    lines = [pixels.sum(axis=axis, dtype=np.float64) for axis in (1, 0)]
    return [float(line @ np.arange(len(line)) / line.sum()) for line in lines]
