"""Pictures of any mode -> RGB on a background that tells the digit from what is behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

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
