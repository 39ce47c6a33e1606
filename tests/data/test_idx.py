"""IDX files: exactly what the header says, or DataError."""

import gzip
import hashlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data import idx
from trainer.job.errors import DataError


def plain(array, dtype=0x08):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, dtype, array.ndim, *array.shape) + bytes(array)


IMAGES = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
LABELS = np.array([3, 0, 9, 1], np.uint8)
PLAIN = plain(IMAGES)
PACKED = gzip.compress(PLAIN, mtime=0)


@pytest.mark.parametrize("name", ["a.gz", "a"])
@pytest.mark.parametrize("data", [PLAIN, PACKED], ids=["plain", "gzip"])
def test_images_come_back_whatever_the_name(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    images = idx.read_images(path)
    np.testing.assert_array_equal(images, IMAGES)
    assert images.dtype == np.uint8
    assert images.flags.c_contiguous
    assert not images.flags.writeable


def test_the_digest_is_that_of_the_plain_file():
    assert idx.sha256(IMAGES) == hashlib.sha256(PLAIN).hexdigest()
    assert idx.sha256(idx.parse(PACKED, "f", 3)) == hashlib.sha256(PLAIN).hexdigest()


def header(*dims):
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, 8, len(dims), *dims)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>not found</html>", "starts with 3c 68 74 6d, expected 00 00 08 03: this is not"),
        (plain(IMAGES, dtype=0x0D), "starts with 00 00 0d 03.*write the elements as unsigned by"),
        (plain(LABELS), "starts with 00 00 08 01, expected 00 00 08 03.*no file of images.*swapp"),
        (PLAIN[:9], "9 bytes of header found, 16 expected"),
        (PLAIN[:16], "0 bytes of elements found, 60 expected"),
        (PLAIN[:-1], "59 bytes of elements found, 60 expected"),
        (PLAIN + b"!", "bytes of elements found, 60 expected: the header says 3 x 4 x 5"),
        (header(0, 4, 5), "the header says 0 x 4 x 5, expected no dim of 0"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1) + b"x", "expected at most 2,147,483,648"),
        (header(2**10, 2**10, 2**10) + b"x", "1 bytes of elements found, 1,073,741,824 expected"),
    ],
)
def test_what_is_wrong_is_said(pack, data, message):
    tracemalloc.start()
    with pytest.raises(DataError, match=f"^folder/file: .*{message}"):
        idx.parse(pack(data), "folder/file", 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (PACKED[:5], "cut short"),
        (PACKED[:-9], "cut short"),
        (PACKED[:-1], "cut short"),
        (PACKED[:-8] + b"\0" * 8, "corrupt .*incorrect data check"),
        (PACKED + b"garbage", "7 bytes follow the end of the gzip data"),
        (PACKED + PACKED, "bytes follow the end of the gzip data"),
    ],
)
def test_what_is_wrong_with_the_gzip_framing_is_said(data, message):
    with pytest.raises(DataError, match=message):
        idx.parse(data, "file", 3)


def test_a_gzip_bomb_is_not_unpacked():
    bomb = gzip.compress(PLAIN + bytes(200_000_000), compresslevel=1)
    tracemalloc.start()
    with pytest.raises(DataError, match="more bytes of elements found, 60 expected"):
        idx.parse(bomb, "file", 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(bomb) + 1_000_000


def test_labels_name_a_class(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(plain(LABELS))
    np.testing.assert_array_equal(idx.read_labels(path, 10), LABELS)
    np.testing.assert_array_equal(idx.read_labels(path, 256), LABELS)
    with pytest.raises(
        DataError, match=r"labels: label 9 at index 2 .1 such.*expected 0 to 8.*num"
    ):
        idx.read_labels(path, 9)


def test_unreadable_paths_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing: cannot be read \(No such file"):
        idx.read_images(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a regular file"):
        idx.read_images(tmp_path)
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(idx.MAX_BYTES + 100)  # a sparse file: no disk is used
    with pytest.raises(DataError, match="bytes found, expected at most"):
        idx.read_images(huge)


# Property: whatever happens to a file, the outcome is the array or DataError


@st.composite
def mutations(draw, data):
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "insert", "delete"])):
            case "flip" if data:
                data[where] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[where:]
            case "insert":
                data[where:where] = draw(st.binary(min_size=1, max_size=20))
            case "delete":
                del data[where : where + draw(st.integers(1, 20))]
    return bytes(data)


@given(mutations(PLAIN))
def test_a_mutated_plain_file_is_refused_or_differs_in_pixels_only(data):
    try:
        images = idx.parse(data, "file", 3)
    except DataError:
        return
    assert plain(images) == data  # nothing lost, nothing made up


@given(mutations(PACKED))
def test_a_mutated_gzip_file_is_refused_or_unharmed(data):
    try:
        images = idx.parse(data, "file", 3)
    except DataError:
        return
    np.testing.assert_array_equal(images, IMAGES)  # the CRC covers every pixel


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused_or_exact(data):
    for candidate in (data, PLAIN[:4] + data, gzip.compress(data), PACKED[:10] + data):
        try:
            images = idx.parse(candidate, "file", 3)
        except DataError:
            continue
        assert images.size > 0


@given(st.integers(1, 3), st.data())
def test_any_array_survives_the_round_trip(rank, data):
    shape = data.draw(st.tuples(*[st.integers(1, 20)] * rank))
    array = (np.arange(np.prod(shape)) % 3).astype(np.uint8).reshape(shape)
    np.testing.assert_array_equal(idx.parse(plain(array), "f", rank), array)
    np.testing.assert_array_equal(idx.parse(gzip.compress(plain(array)), "f", rank), array)
