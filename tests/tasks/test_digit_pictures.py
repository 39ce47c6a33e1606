"""Pictures of a digit come out in MNIST's form, whatever their size, colours and margins."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.digit_pictures import apart, off, read_picture, to_mnist
from support.drawn_digits import draw

from trainer.formats import idx
from trainer.formats.image_files import PictureError
from trainer.job.errors import DataError


def test_what_is_in_mnists_form_stays_so(mnist_dir, tmp_path):
    digits = idx.read_images(mnist_dir / "t10k-images-idx3-ubyte.gz")[:300]
    for digit in digits:
        assert to_mnist(Image.fromarray(digit)) is not digit
        np.testing.assert_array_equal(to_mnist(Image.fromarray(digit)), digit)
        np.testing.assert_array_equal(to_mnist(Image.fromarray(digit).convert("RGB")), digit)
    inverse = np.stack([to_mnist(Image.fromarray(255 - digit)) for digit in digits])
    assert np.median([off(a, b) for a, b in zip(inverse, digits, strict=True)]) < 1
    assert off(inverse, digits) < 2


def test_size_centre_and_brightness():
    for digit in range(10):
        form = to_mnist(draw(digit, size=90))
        assert (form.dtype, form.shape) == (np.uint8, (28, 28))
        rows, cols = np.nonzero(form)
        assert max(np.ptp(rows), np.ptp(cols)) + 1 in (19, 20)
        for axis in (0, 1):
            centre = (form.sum(axis=1 - axis) @ np.arange(28)) / form.sum()
            assert abs(centre - 14) <= 0.51
        assert form.max() > 250
        assert form[0, 0] == 0


@pytest.mark.parametrize(
    "look",
    [
        {"ink": (255, 255, 255), "paper": (0, 0, 0)},
        {"ink": (200, 30, 30), "paper": (250, 240, 200)},
        {"ink": (255, 0, 0), "paper": (0, 130, 0)},  # of nearly the same brightness
        {"ink": (110, 110, 110), "paper": (150, 150, 150)},
        {"size": 200},
        {"margin": 2.0},
        {"margin": 0.0},
    ],
    ids=str,
)
def test_the_look_does_not_matter(look):
    warn = print if look.get("margin") == 0 else pytest.fail  # no paper around the digit
    for digit in (2, 4, 7):
        assert apart(to_mnist(draw(digit, **look), warn), to_mnist(draw(digit))) < 12
        assert apart(to_mnist(draw(digit, **look), warn), to_mnist(draw(digit + 1))) > 18


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "F"])
def test_modes(mode):
    picture = draw(5)
    assert apart(to_mnist(picture.convert("L").convert(mode)), to_mnist(picture)) < 8


def test_sixteen_bits():
    deep = Image.fromarray(np.asarray(draw(5).convert("L")).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert apart(to_mnist(deep), to_mnist(draw(5))) < 1


@pytest.mark.parametrize("size", [24, 700])
def test_twelve_bits_in_sixteen_and_a_white_pixel(size):
    drawn = draw(5, size=size)
    pixels = np.asarray(drawn.convert("L")).astype(np.uint16) * 16 + 100
    pixels[1, 1] = 65_535
    assert apart(to_mnist(Image.fromarray(pixels)), to_mnist(drawn)) < 2


@pytest.mark.parametrize("shade", [0.8, 0.5])
@pytest.mark.parametrize("degrees", [0, 45, 90])
def test_uneven_light_is_removed_and_warned_of(shade, degrees):
    lit = np.asarray(draw(4, size=120), np.float32)
    y, x = np.mgrid[0 : 1 : lit.shape[0] * 1j, 0 : 1 : lit.shape[1] * 1j]
    angle = np.radians(degrees)
    slope = (np.cos(angle) * x + np.sin(angle) * y) / (np.cos(angle) + np.sin(angle))
    shaded = lit * (1 - (1 - shade) * slope)[..., np.newaxis]
    warnings = []
    form = to_mnist(Image.fromarray(shaded.astype(np.uint8)), warnings.append)
    assert apart(form, to_mnist(draw(4, size=120))) < 6
    assert len(warnings) == 1
    assert "light" in warnings[0]


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (200, 30, 30)])
def test_a_digit_on_nothing(ink):
    """Its colour says nothing of the background; neither does what lies hidden below alpha 0."""
    mask = draw(3, ink=(255, 255, 255), paper=(0, 0, 0)).convert("L")
    for hidden in ((0, 0, 0), (255, 255, 255)):
        picture = Image.composite(
            Image.new("RGB", mask.size, ink), Image.new("RGB", mask.size, hidden), mask.point(bool)
        )
        picture.putalpha(mask)
        assert apart(to_mnist(picture), to_mnist(draw(3))) < 12


def test_a_sticker_with_transparent_corners():
    sticker = draw(6, size=120).convert("RGBA")
    wider = Image.new("RGBA", (sticker.width + 60, sticker.height + 60))
    wider.paste(sticker, (30, 30))
    assert apart(to_mnist(wider), to_mnist(draw(6, size=120))) < 2


def on_a_large_sheet(picture, side, corner):
    wide = Image.new("RGB", (side, side), picture.getpixel((0, 0)))
    wide.paste(picture, corner)
    return wide


@pytest.mark.parametrize("margin", [5.0, 10.0])
@pytest.mark.parametrize("size", [24, 64])
def test_wide_margins(size, margin):
    for digit in (2, 4, 7):
        assert apart(to_mnist(draw(digit, size=size, margin=margin)), to_mnist(draw(digit))) < 14


@pytest.mark.parametrize("corner", [(20, 20), (500, 700), (1120, 1100)])
def test_a_small_digit_on_a_large_sheet(corner):
    small = draw(2, size=40)
    assert apart(to_mnist(on_a_large_sheet(small, 1200, corner)), to_mnist(small)) < 4


@pytest.mark.parametrize("frame", [(30, 30, 30), (200, 40, 40)])
def test_a_frame_round_the_paper(frame):
    for size in (40, 200):
        framed = ImageOps.expand(draw(3, size=size), border=size // 6, fill=frame)
        assert apart(to_mnist(framed), to_mnist(draw(3, size=size))) < 6


@pytest.mark.parametrize(
    "pixels",
    [[[0, 255]], [[0], [0], [0], [0], [255], [255], [255], [255], [0]], [[0, 255] * 50] * 100],
    ids=["2 pixels", "9 pixels", "a border of two colours"],
)
def test_a_picture_without_a_background_is_told(tmp_path, pixels):
    Image.fromarray(np.array(pixels, np.uint8)).save(tmp_path / "odd.png")
    with pytest.raises(DataError, match=r"odd\.png: there is no digit on it, or no margin of one"):
        read_picture(tmp_path / "odd.png")


@pytest.mark.parametrize("kind", ["RGB", "L", "P"])
@pytest.mark.parametrize("ink", [(0, 0, 0), (200, 30, 30)])
@pytest.mark.parametrize("size", [24, 64, 300, 700])
def test_a_colour_that_stands_for_nothing(tmp_path, kind, ink, size):
    """Of a digit with smooth edges; these are opaque, and some are more paper than ink."""
    picture = draw(5, size=size, ink=ink)
    whole = picture.convert(kind, palette=Image.Palette.ADAPTIVE, colors=64)
    whole.save(tmp_path / "5.png", transparency=whole.getpixel((0, 0)))
    with Image.open(tmp_path / "5.png") as keyed:
        assert keyed.mode == kind
        assert "transparency" in keyed.info
    assert apart(read_picture(tmp_path / "5.png"), to_mnist(picture)) < 3


def test_a_digit_cut_out_of_a_sheet():
    mask = draw(3, size=120).convert("L")
    picture = Image.new("RGBA", mask.size, (120, 160, 200))
    picture.putalpha(mask)
    assert apart(to_mnist(picture), to_mnist(draw(3, size=120))) < 6


def test_grain():
    grain = np.random.default_rng(0).normal(0, 15, np.asarray(draw(8, size=200)).shape)
    noisy = np.clip(np.asarray(draw(8, size=200), float) + grain, 0, 255).astype(np.uint8)
    assert apart(to_mnist(Image.fromarray(noisy)), to_mnist(draw(8, size=200))) < 8


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (3, 900)])
def test_nothing_on_it(size):
    with pytest.raises(PictureError):
        to_mnist(Image.new("RGB", size, (7, 90, 200)))
    with pytest.raises(PictureError):
        to_mnist(Image.new("RGBA", size))
