"""A confusion matrix as a picture: rows are what an image is, columns what it was taken for."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from trainer import confusion
from trainer.pictures import font

CELL = 44  # pixels, where the counts are written in the cells
SMALL_CELL = 8  # and where there are too many classes for that
MOST_WITH_COUNTS = 20
MARGIN = 56
INK, PAPER = (20, 20, 30), (255, 255, 255)
RIGHT, WRONG = (33, 102, 172), (178, 24, 43)  # told apart by the colour-blind, too


def png(counts: confusion.Counts, title: str) -> bytes:
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
