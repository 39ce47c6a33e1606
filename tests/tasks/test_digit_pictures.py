"""Pictures of a digit come out in MNIST's form, whatever their size, colours and margins."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.drawn_digits import draw

from trainer.formats import idx, image_files
from trainer.formats.image_files import PictureError
from trainer.job.errors import DataError
from trainer.tasks import digit_pictures


def to_mnist(picture, warn=pytest.fail):  # the light on these is even
    return digit_pictures.to_mnist(picture, warn)


def read_picture(path, warn=pytest.fail):
    (digit,) = digit_pictures.read(path, (28, 28), find_digit=True, warn=warn)["image"]
    return digit


def off(a, b):
    """The mean difference of two pictures, of 255."""
    return np.abs(a.astype(float) - b).mean()


def apart(a, b):
    """The same, where one may lie a pixel beside the other: the centre of mass is rounded."""
    steps = (-1, 0, 1)
    return min(off(np.roll(a, (row, col), (0, 1)), b) for row in steps for col in steps)


def test_what_is_in_mnists_form_stays_so(mnist_dir, tmp_path):
    digits = idx.read_images(mnist_dir / "t10k-images-idx3-ubyte.gz")[:300]
    for digit in digits:
        assert to_mnist(Image.fromarray(digit)) is not digit
        np.testing.assert_array_equal(to_mnist(Image.fromarray(digit)), digit)
        np.testing.assert_array_equal(to_mnist(Image.fromarray(digit).convert("RGB")), digit)
    inverse = np.stack([to_mnist(Image.fromarray(255 - digit)) for digit in digits])
    assert np.median([off(a, b) for a, b in zip(inverse, digits, strict=True)]) < 1
    assert off(inverse, digits) < 2


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3)])
def test_pictures_of_another_data_set_are_taken_as_they_are(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    picture = Image.fromarray(pixels.reshape(shape[:2] if shape[2:] in ((), (1,)) else shape))
    path = tmp_path / "shoe.png"

    def read():
        return digit_pictures.read(path, shape, find_digit=False, warn=pytest.fail)["image"]

    for mode in {picture.mode, "RGB", "RGBA"}:
        picture.convert(mode).save(path)
        np.testing.assert_array_equal(read(), pixels[np.newaxis])
    for wrong, message in (
        (picture.resize((14, 18)), "14 x 18 pixels, the images of the data set 7 x 9: resize"),
        (picture.convert("RGBA").rotate(45), "transparent parts, which the data set has not"),
        (Image.new("I;16", (7, 9)), "the mode I;16: convert it to RGB or grey with 8 bits"),
    ):
        wrong.save(path)
        with pytest.raises(DataError, match=rf"shoe\.png: {message}"):
            read()


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


def test_sixteen_bits_of_each_colour(tmp_path):
    colours = np.asarray(draw(5, ink=(200, 30, 30)))
    alpha = np.full((*colours.shape[:2], 1), 255, np.uint8)
    for kind, values in ((2, colours), (6, np.concatenate([colours, alpha], axis=2))):
        rows = [b"\0" + row.astype(">u2").tobytes() for row in values.astype(np.uint16) * 257]
        size = struct.pack(">2I5B", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
        chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
        packed = b"".join(chunk(name, data) for name, data in chunks)
        (tmp_path / "5.png").write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
        assert apart(read_picture(tmp_path / "5.png"), to_mnist(draw(5))) < 4


def test_the_first_picture_of_an_animation(tmp_path):
    first, *others = [draw(digit, size=90) for digit in (4, 7, 1)]
    others = [other.resize(first.size) for other in others]
    first.save(tmp_path / "4.png", save_all=True, append_images=others, duration=100)
    assert apart(read_picture(tmp_path / "4.png"), to_mnist(first)) < 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_kinds_of_jpeg(tmp_path, mode):
    draw(6, size=120).convert(mode).save(tmp_path / "6.jpg", quality=95)
    with Image.open(tmp_path / "6.jpg") as picture:
        assert picture.mode == mode
    assert apart(read_picture(tmp_path / "6.jpg"), to_mnist(draw(6, size=120))) < 3


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


def test_a_photo_that_was_turned(tmp_path):
    upright = draw(4, size=120)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it
    upright.rotate(90, expand=True).save(tmp_path / "4.jpg", exif=exif, quality=95)
    assert apart(read_picture(tmp_path / "4.jpg"), to_mnist(upright)) < 3


def chunk(name, data):
    packed = name + data
    return struct.pack(">I", len(data)) + packed + struct.pack(">I", zlib.crc32(packed))


@pytest.mark.parametrize("notes", [b"", b"no exif", b"II*\0\xff\xff\xff\xff", b"MM\0*" + bytes(2)])
def test_broken_notes_of_a_camera_do_no_harm(tmp_path, notes):
    draw(4, size=60).save(tmp_path / "4.png")
    good = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(good[:33] + chunk(b"eXIf", notes) + good[33:])
    np.testing.assert_array_equal(read_picture(tmp_path / "4.png"), to_mnist(draw(4, size=60)))


def bomb(path, side):
    """A PNG of a few bytes whose header claims side x side pixels."""
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize("side", [7_100, 10_000, 60_000, 2**31 - 1])
def test_too_large_a_picture_is_not_unpacked(tmp_path, side):
    bomb(tmp_path / "bomb.png", side)
    with pytest.raises(DataError, match=r"bomb\.png: .*(pixels|too large)"):
        read_picture(tmp_path / "bomb.png")


def test_a_large_picture(tmp_path):
    draw(9, size=2000, margin=0.5).save(tmp_path / "9.png")
    assert apart(read_picture(tmp_path / "9.png"), to_mnist(draw(9, size=200, margin=0.5))) < 6


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_broken_files_are_named(tmp_path, kind):
    draw(7, size=60).save(tmp_path / f"good.{kind}")
    data = (tmp_path / f"good.{kind}").read_bytes()
    path = tmp_path / f"bad.{kind}"
    chance = np.random.default_rng(1)
    named = 0
    for length in chance.integers(0, len(data) * 3 // 4, 40):  # cut short
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"bad\."):
            read_picture(path, print)
    for place in chance.integers(0, len(data), 200):  # a flipped bit may do no harm, or be told
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(damaged)
        with suppress(DataError):
            assert read_picture(path, print).shape == (28, 28)
            continue
        named += 1
    assert kind == "jpg" or named > 100  # PNG has checksums


def test_other_files_are_named(tmp_path):
    draw(7).save(tmp_path / "7.bmp")
    (tmp_path / "text.png").write_text("7")
    (tmp_path / "empty.png").touch()
    for name in ("7.bmp", "text.png", "empty.png"):
        with pytest.raises(DataError, match=f"{name}: not a PNG, JPEG or IDX file"):
            read_picture(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.png: cannot be read \(No such file"):
        read_picture(tmp_path / "none.png")
    assert image_files.FORMATS == ("PNG", "JPEG")
