"""Pictures are read from files of any kind; broken, foreign and too large ones are named."""

import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from support.digit_pictures import apart, read_picture, to_mnist
from support.drawn_digits import draw

from trainer.formats import image_files
from trainer.job.errors import DataError
from trainer.tasks import digit_pictures


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
    for place in chance.integers(0, len(data), 200):  # a flipped bit may do no harm, or be noticed
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
