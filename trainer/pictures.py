"""Drawings for people: a confusion matrix, digits with captions, the first layer's filters.

Each function returns a PIL image and touches no file; png() turns it into bytes. Pillow brings
the font. Small palettes and sizes: a run draws these while it trains.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_INK, _PALE, _LINE = (34, 34, 34), (110, 110, 110), (222, 222, 222)
_RIGHT, _WRONG = (31, 91, 163), (200, 76, 12)  # told apart by the colour-blind too
_TEXT_UP_TO = 26  # classes; with more, the cells get too small for figures
_RGB = tuple[int, int, int]


def png(image: Image.Image) -> bytes:
    """Return the image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)  # six times faster than the default, a bit larger
    return buffer.getvalue()


def confusion_matrix(values: npt.NDArray[Any], title: str) -> Image.Image:
    """Draw a confusion matrix: labels downwards, predictions to the right.

    Args:
        values: (C, C), rows are labels: counts if of an integer type, else shares from 0 to 1.
        title: written above.

    Returns:
        an RGB image. The correct are blue and the mistakes orange, each by their own scale: the
        deepest orange is the most frequent mistake, however rare it is.
    """
    classes = len(values)
    written = classes <= _TEXT_UP_TO
    cell = 40 if written else max(2, 640 // classes)
    left, top = 58, 62
    side = classes * cell
    image = Image.new("RGB", (left + side + 14, top + side + 12), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, 8), title, fill=_INK, font=_font(15))
    draw.text((left + side / 2, top - 24), "predicted", fill=_PALE, font=_font(12), anchor="mm")
    _sideways(image, "label", (14, top + side // 2))
    right = np.eye(classes, dtype=bool)
    depth = np.zeros((classes, classes))
    for part in (right, ~right):
        depth[part] = values[part] / max(values[part].max(initial=0), 1e-12)
    for row, column in np.ndindex(classes, classes):
        strength = float(depth[row, column])
        x, y = left + column * cell, top + row * cell
        colour = _blend(_RIGHT if row == column else _WRONG, strength)
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour)
        if written and values[row, column]:
            figure = _figure(values[row, column])
            ink = "white" if strength > 0.7 else _INK
            draw.text((x + cell / 2, y + cell / 2), figure, fill=ink, font=_font(12), anchor="mm")
    if written:
        for i in range(classes + 1):
            at = i * cell
            draw.line((left, top + at, left + side, top + at), fill=_LINE)
            draw.line((left + at, top, left + at, top + side), fill=_LINE)
        for i in range(classes):
            middle = i * cell + cell / 2
            draw.text((left + middle, top - 9), str(i), fill=_INK, font=_font(12), anchor="mm")
            draw.text((left - 12, top + middle), str(i), fill=_INK, font=_font(12), anchor="mm")
    return image


def digits(
    images: npt.NDArray[np.uint8], captions: Sequence[str], title: str, columns: int = 6
) -> Image.Image:
    """Draw images in a grid, with a caption below each.

    Args:
        images: (N, rows, cols), 0 to 255.
        captions: N texts, of one or two short lines each.
        title: written above.
        columns: of the grid.

    Returns:
        an image in 256 greys.
    """
    count, height, width = images.shape
    if count != len(captions):
        raise ValueError(f"{count} images but {len(captions)} captions")
    scale = max(1, 64 // max(height, width))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    cell_w, cell_h = max(scale * width, 76) + 12, scale * height + 15 * lines + 12
    rows = -(-count // columns)
    image = Image.new("L", (10 + columns * cell_w, 36 + max(rows, 1) * cell_h), 255)
    draw = ImageDraw.Draw(image)
    draw.text((10, 8), title, fill=34, font=_font(15))
    if not count:
        draw.text((10, 40), "none", fill=34, font=_font(12))
    for i, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 10 + i % columns * cell_w, 36 + i // columns * cell_h
        large = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
        image.paste(Image.fromarray(large), (x + (cell_w - 12 - scale * width) // 2, y))
        below = (x + (cell_w - 12) / 2, y + scale * height + 3)
        draw.multiline_text(
            below, caption, fill=34, font=_font(12), anchor="ma", align="center", spacing=2
        )
    return image


def filters(kernels: npt.NDArray[np.floating[Any]], columns: int = 8) -> Image.Image:
    """Draw weights as little images, side by side.

    Args:
        kernels: (N, rows, cols); zero is grey, and each is scaled by its own largest weight.
        columns: of the grid.

    Returns:
        an image in 256 greys.
    """
    count, height, width = kernels.shape
    largest = np.abs(kernels).max(axis=(1, 2), keepdims=True, initial=1e-12)
    pixels = np.rint(kernels / largest * 127 + 128).astype(np.uint8)
    scale = max(1, 56 // max(height, width))
    rows = -(-count // columns)
    canvas = np.full((rows * columns, scale * height + 4, scale * width + 4), 255, np.uint8)
    large = np.repeat(np.repeat(pixels, scale, axis=1), scale, axis=2)
    canvas[:count, 2:-2, 2:-2] = large
    grid = canvas.reshape(rows, columns, *canvas.shape[1:]).swapaxes(1, 2)
    return Image.fromarray(grid.reshape(rows * canvas.shape[1], columns * canvas.shape[2]))


@lru_cache(8)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _blend(colour: _RGB, strength: float) -> _RGB:
    """Mix a colour into white; what is not quite nothing is seen."""
    share = 0.08 + 0.92 * strength if strength > 0 else 0.0
    red, green, blue = (round(255 - (255 - channel) * share) for channel in colour)
    return red, green, blue


def _figure(value: Any) -> str:
    if isinstance(value, np.integer):
        return f"{value:,}" if value < 100_000 else f"{value / 1000:,.0f}k"
    return f"{value:.0%}" if value >= 0.9995 else f"{value:.1%}"


def _sideways(image: Image.Image, text: str, middle: tuple[int, int]) -> None:
    """Write a text from bottom to top, around a point."""
    left, top, right, bottom = (round(x) for x in _font(12).getbbox(text))
    strip = Image.new("L", (right - left + 2, bottom - top + 2), 0)
    ImageDraw.Draw(strip).text((1 - left, 1 - top), text, fill=255, font=_font(12))
    strip = strip.rotate(90, expand=True)
    ink = Image.new("RGB", strip.size, _PALE)
    image.paste(ink, (middle[0] - strip.width // 2, middle[1] - strip.height // 2), strip)
