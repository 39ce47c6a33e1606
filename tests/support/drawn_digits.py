"""Pictures of printed digits, drawn by pillow: what a model of handwriting has never seen."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# The fonts that matplotlib brings along; None is pillow's own.
FONTS = (
    *("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf", "DejaVuSansMono.ttf"),
    *("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"),
    *("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"),
    *("cmr10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmb10.ttf", None),
)
SIZES = (16, 24, 40, 64, 120, 300)
COLOURS: tuple[tuple[Colour, Colour], ...] = (  # of the digit and of the paper
    ((0, 0, 0), (255, 255, 255)),
    ((255, 255, 255), (0, 0, 0)),
    ((200, 30, 30), (250, 240, 200)),
    ((255, 220, 0), (20, 40, 120)),
    ((0, 120, 0), (180, 255, 180)),
    ((255, 0, 0), (0, 110, 0)),
    ((90, 90, 90), (160, 160, 160)),
)
MARGINS = (0.1, 0.3, 1.0)  # of the font's size


class Drawn(NamedTuple):
    """A picture and what is on it."""

    digit: int
    picture: Image.Image
    message: str  # how it was drawn


def font_of(name: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if name is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def draw(
    digit: int,
    font: str | None = "DejaVuSans.ttf",
    size: int = 64,
    degrees: float = 0,
    ink: Colour = (0, 0, 0),
    paper: Colour = (255, 255, 255),
    margin: float = 0.3,
) -> Image.Image:
    """Draw one digit, higher margins above and below than at the sides."""
    face = font_of(font, size)
    left, top, right, bottom = face.getbbox(str(digit))
    mask = Image.new("L", (2 * size, 2 * size))
    origin = (size - (left + right) / 2, size - (top + bottom) / 2)
    ImageDraw.Draw(mask).text(origin, str(digit), font=face, fill=255)
    mask = mask.rotate(degrees, resample=Image.Resampling.BICUBIC)
    mask = mask.crop(mask.getbbox())
    border = int(margin * size)
    picture = Image.new("RGB", (mask.width + 2 * border, mask.height + 3 * border), paper)
    picture.paste(Image.new("RGB", mask.size, ink), (border, border), mask)
    return picture


def draw_many(count: int, seed: int) -> list[Drawn]:
    """Draw digits 0 1 ... 9 0 ..., each with a font, size, angle, colours and margin by chance."""
    choice = random.Random(seed)
    drawn = []
    for number in range(count):
        font, size = choice.choice(FONTS), choice.choice(SIZES)
        degrees, margin = choice.uniform(-12, 12), choice.choice(MARGINS)
        ink, paper = choice.choice(COLOURS)
        picture = draw(number % 10, font, size, degrees, ink, paper, margin)
        message = f"{number % 10} in {font}, {size}, {degrees:.0f} degrees, {ink} on {paper}"
        drawn.append(Drawn(number % 10, picture, message))
    return drawn
