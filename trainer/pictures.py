"""Pictures for TensorBoard: uint8 arrays (height, width, 3), drawn on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]

SCALE, CAPTION, GAP = 2, 14, 4  # of a digit: magnification; pixels below and beside it


def digits(images: npt.NDArray[np.uint8], captions: Sequence[str], columns: int = 8) -> Picture:
    """Draw square images (N, pixels), each with a caption below it, in rows of `columns`."""
    side = math.isqrt(images.shape[1])
    cell = side * SCALE + GAP
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (pixels, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = index % columns * cell, index // columns * (cell + CAPTION)
        digit = Image.fromarray(pixels[: side * side].reshape(side, side))
        sheet.paste(digit.resize((side * SCALE, side * SCALE), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + side * SCALE), caption, fill="black", font=font)
    return np.asarray(sheet)


def filters(kernel: npt.NDArray[np.float32], count: int = 64, columns: int = 16) -> Picture:
    """Draw the first columns of a kernel (pixels, units) as images: blue below zero, red above."""
    side = math.isqrt(kernel.shape[0])
    shown = kernel[: side * side, :count].T
    scale = np.abs(shown).max(axis=1, keepdims=True)
    values = (shown / np.maximum(scale, 1e-12)).reshape(-1, side, side)
    rows = -(-len(values) // columns)
    sheet = np.full((rows * (side + 1), columns * (side + 1), 3), 255, np.uint8)
    for index, value in enumerate(values):
        y, x = index // columns * (side + 1), index % columns * (side + 1)
        fade = (255 * (1 - np.abs(value))).astype(np.uint8)
        red, blue = np.where(value >= 0, 255, fade), np.where(value <= 0, 255, fade)
        sheet[y : y + side, x : x + side] = np.stack([red, fade, blue], axis=-1)
    return np.repeat(np.repeat(sheet, SCALE, axis=0), SCALE, axis=1)
