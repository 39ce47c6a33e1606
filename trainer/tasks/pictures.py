"""Drawings for people: digits with captions, and the filters of a layer.

Each function returns a PIL image and touches no file; png() turns it into bytes. Pillow brings
the font.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trainer.tasks import confusion

_DEPTH = 7  # shades of each colour: with white they fit four bits
_GREYS, _COLOURS = 16, 64  # of all other pictures
_DIGITS, _FILTERS = 4, 9  # in a row: four digits are as wide as TensorBoard shows a picture


def png(image: Image.Image) -> bytes:
    """Return the image as the bytes of a small PNG file, in few colours.

    Small, because tensorboardX computes a checksum of each byte in Python.
    """
    if image.mode != "P":
        colours = _GREYS if image.mode == "L" else _COLOURS
        image = image.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def digits(images: npt.NDArray[np.uint8], captions: Sequence[str], title: str) -> Image.Image:
    """Draw images in a grid, four side by side, with a caption below each.

    Args:
        images: (N, rows, cols), 0 to 255.
        captions: N texts, of one or two short lines each.
        title: written above.

    Returns:
        an image in 256 greys.
    """
    count, height, width = images.shape
    if count != len(captions):
        raise ValueError(f"{count} images but {len(captions)} captions")
    scale = max(1, 64 // max(height, width))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    cell_w, cell_h = max(scale * width, 76) + 12, scale * height + 15 * lines + 12
    rows = -(-count // _DIGITS)
    image = Image.new("L", (10 + _DIGITS * cell_w, 36 + max(rows, 1) * cell_h), 255)
    draw = ImageDraw.Draw(image)
    draw.text((10, 8), title, fill=34, font=font(15))
    if not count:
        draw.text((10, 40), "none", fill=34, font=font(12))
    for i, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = 10 + i % _DIGITS * cell_w, 36 + i // _DIGITS * cell_h
        large = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
        image.paste(Image.fromarray(large), (x + (cell_w - 12 - scale * width) // 2, y))
        below = (x + (cell_w - 12) / 2, y + scale * height + 3)
        draw.multiline_text(
            below, caption, fill=34, font=font(12), anchor="ma", align="center", spacing=2
        )
    return image


def filters(kernels: npt.NDArray[np.floating[Any]]) -> Image.Image:
    """Draw weights as little images, nine side by side: blue below zero, red above, white at zero.

    Args:
        kernels: (N, rows, cols), finite; each is scaled by its own largest weight.

    Returns:
        an image in 15 colours.
    """
    count, height, width = kernels.shape
    largest = np.abs(kernels).max(axis=(1, 2), keepdims=True, initial=1e-12)
    values = np.rint(kernels / largest * _DEPTH).astype(np.int8) + _DEPTH
    scale = max(1, 56 // max(height, width))
    rows = -(-count // _FILTERS)
    canvas = np.full((rows * _FILTERS, scale * height + 4, scale * width + 4), _DEPTH, np.uint8)
    canvas[:count, 2:-2, 2:-2] = np.repeat(np.repeat(values, scale, axis=1), scale, axis=2)
    grid = canvas.reshape(rows, _FILTERS, *canvas.shape[1:]).swapaxes(1, 2)
    image = Image.fromarray(grid.reshape(rows * canvas.shape[1], _FILTERS * canvas.shape[2]))
    image.putpalette(_shades(), "RGB")
    return image


@lru_cache(8)
def font(size: int) -> Any:
    """Return the font of all drawings, which each call of Pillow's would parse anew."""
    return ImageFont.load_default(size)


def _shades() -> bytes:
    """Return the palette of filters(): blue, through white, to red."""
    fade = np.linspace(255, 40, _DEPTH + 1)[1:]
    blue = np.stack([fade, fade, np.full(_DEPTH, 255)], axis=-1)
    red = blue[:, ::-1]
    return np.vstack([blue[::-1], [[255, 255, 255]], red]).astype(np.uint8).tobytes()


CELL = 44  # pixels, where the counts are written in the cells
SMALL_CELL = 8  # and where there are too many classes for that
MOST_WITH_COUNTS = 20
MARGIN = 56
INK, PAPER = (20, 20, 30), (255, 255, 255)
RIGHT, WRONG = (33, 102, 172), (178, 24, 43)  # told apart by the colour-blind, too


def confusion_png(counts: confusion.Counts, title: str) -> bytes:
    """Return the drawing of counts as the bytes of a PNG file."""
    buffer = io.BytesIO()
    draw(counts, title).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw(counts: confusion.Counts, title: str, normalized: bool = False) -> Image.Image:
    """Draw counts (classes, classes): the diagonal blue, mistakes red, darker where more.

    A cell's colour is its share of its row; mistakes are drawn twenty times as strong, because they
    are few. In the cells stand the counts, or percents of the row if `normalized`.
    """
    classes = len(counts)
    cell = CELL if classes <= MOST_WITH_COUNTS else SMALL_CELL
    side = MARGIN + classes * cell
    height = side + MARGIN // 2
    width = max(height, MARGIN // 2 + round(font(17).getlength(title)))
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)
    shares = confusion.normalized(counts)
    for row in range(classes):
        for col in range(classes):
            strength = shares[row, col] if row == col else min(20 * shares[row, col], 1)
            colour = np.array(RIGHT if row == col else WRONG)
            shade = tuple(int(c) for c in 255 - (255 - colour) * strength)
            x, y = MARGIN + col * cell, MARGIN + row * cell
            pen.rectangle((x, y, x + cell - 2, y + cell - 2), fill=shade)
            if cell == CELL and counts[row, col]:
                ink = PAPER if strength > 0.5 else INK
                percent = f"{100 * shares[row, col]:.1f}".removesuffix(".0")  # a cell's width
                figure = percent if normalized else str(counts[row, col])
                wide = font(17).getlength(figure) > cell - 4  # 10,000 images of a class and more
                _text(pen, (x + cell // 2, y + cell // 2), figure, 10 if wide else 17, ink)
    step = 1 if cell == CELL else 10
    for index in range(0, classes, step):
        place = MARGIN + index * cell + cell // 2
        _text(pen, (place, MARGIN - 12), str(index), 17)
        _text(pen, (MARGIN - 14, place), str(index), 17)
    middle = side // 2 + MARGIN // 2
    _text(pen, (middle if width == height else width // 2, 16), title, 17)
    _text(pen, (middle, side + 12), "taken for", 16)
    upright = Image.new("RGB", (120, 20), PAPER)
    _text(ImageDraw.Draw(upright), (60, 10), "is", 16)
    picture.paste(upright.rotate(90, expand=True), (4, side // 2 - 40))
    return picture


def _text(
    draw: ImageDraw.ImageDraw,
    centre: tuple[int, int],
    text: str,
    size: int,
    ink: tuple[int, int, int] = INK,
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font(size))
    place = (centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2)
    draw.text(place, text, font=font(size), fill=ink)
