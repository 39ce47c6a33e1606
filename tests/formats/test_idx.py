"""IDX files: exactly what the header says, or DataError."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.formats import idx
from trainer.job.errors import DataError


def plain(array, dtype=0x08):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, dtype, array.ndim, *array.shape) + bytes(array)


def header(*dims):
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, 8, len(dims), *dims)


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
    assert idx.sha256(idx.parse(PACKED, "f")) == hashlib.sha256(PLAIN).hexdigest()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>not found</html>", ": starts with 3c 68 74 6d, but an IDX file with 00 00, "),
        (plain(IMAGES, dtype=0x0A), ": starts with 00 00 0a 03, but an IDX file with 00 00, "),
        (b"\0\0\x08\0" + bytes(4), ": starts with 00 00 08 00, but an IDX file with 00 00, "),
        (header(*[1] * 9) + b"x", ": starts with 00 00 08 09, but an IDX file with 00 00, "),
        (
            plain(IMAGES, dtype=0x0D),
            ": 60 bytes of elements, but the header declares 3 x 4 x 5 of 4 bytes each",
        ),
        (b"", ": starts with nothing"),
        (PLAIN[:9], ": 0 bytes of elements, but the header declares 3 x 0 x 0"),
        (PLAIN[:15], ": 0 bytes of elements, but the header declares 3 x 4 x 0"),
        (PLAIN[:16], ": 0 bytes of elements, but the header declares 3 x 4 x 5"),
        (PLAIN[:-1], ": 59 bytes of elements, but the header declares 3 x 4 x 5"),
        (PLAIN + b"!", ": 61 bytes of elements, but the header declares 3 x 4 x 5"),
        (header(0, 4, 5), ": 0 bytes of elements, but the header declares 0 x 4 x 5"),
        (header(2**32 - 1, 2**32 - 1, 2**32 - 1) + b"x", ": 1 bytes of elements"),
    ],
)
def test_what_is_wrong_is_said(pack, data, message):
    with pytest.raises(DataError, match=f"^folder/file{message}"):
        idx.parse(pack(data), "folder/file")


@pytest.mark.parametrize(
    "data",
    [
        PACKED[:5],
        PACKED[:-9],
        PACKED[:-1],
        PACKED[:-8] + b"\0" * 8,
        PACKED + b"garbage",
    ],
)
def test_bad_gzip_data_are_refused(data):
    with pytest.raises(DataError, match=r"^file: the gzip data are corrupt or cut short"):
        idx.parse(data, "file")


def test_a_gzip_file_may_have_several_members():
    packed = gzip.compress(PLAIN[:30]) + gzip.compress(PLAIN[30:]) + gzip.compress(b"") + bytes(9)
    np.testing.assert_array_equal(idx.parse(packed, "file"), IMAGES)


@pytest.mark.parametrize("kind", idx.CODES)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4, 3)])
def test_every_type_and_rank_is_read(kind, shape):
    values = np.arange(np.prod(shape)).reshape(shape) - (0 if kind == "u1" else 3)
    data = idx.header(shape, kind) + values.astype(f">{kind}").tobytes()
    array = idx.parse(data, "file")
    np.testing.assert_array_equal(array, values)
    assert array.dtype == np.dtype("f4" if kind == "f8" else kind)
    assert array.dtype.isnative
    assert not array.flags.writeable
    if kind != "f8":
        assert idx.sha256(array) == hashlib.sha256(data).hexdigest()


def test_two_files_in_one_are_refused():
    with pytest.raises(DataError, match="file: 136 bytes of elements, but the header declares"):
        idx.parse(PACKED + PACKED, "file")


def test_labels_name_a_class(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(plain(LABELS))
    np.testing.assert_array_equal(idx.read_labels(path, 10), LABELS)
    np.testing.assert_array_equal(idx.read_labels(path, 256), LABELS)
    with pytest.raises(DataError, match=r"labels: label 9 at index 2: expected 0 to 8.*num"):
        idx.read_labels(path, 9)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (IMAGES, "holds uint8 3 x 4 x 5, but labels are N whole numbers: were the files of im"),
        (np.zeros(3, ">f4"), "holds float32 3, but labels are N whole numbers"),
        (np.array([0, -1, 2], ">i2"), "label -1 at index 1: expected 0 to 299"),
        (np.array([0, 299, 300], ">i2"), "label 300 at index 2: expected 0 to 299"),
    ],
)
def test_what_is_no_label(tmp_path, array, message):
    (tmp_path / "labels").write_bytes(idx.header(array.shape, array.dtype) + array.tobytes())
    with pytest.raises(DataError, match=message):
        idx.read_labels(tmp_path / "labels", 300)


def test_labels_are_no_images(tmp_path):
    (tmp_path / "images").write_bytes(plain(LABELS))
    with pytest.raises(DataError, match=r"images: holds 4 numbers, but images .*swapped\?"):
        idx.read_images(tmp_path / "images")


def test_unreadable_paths_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing: cannot be read \(No such file"):
        idx.read_images(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory"):
        idx.read_images(tmp_path)


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
        images = idx.parse(data, "file")
    except DataError:
        return
    if (kind := idx.TYPES[data[2]]) != "f8":  # which is rounded to 32 bits
        again = idx.header(images.shape, images.dtype) + images.astype(f">{kind}").tobytes()
        assert again == data  # nothing lost, nothing made up


@given(mutations(PACKED))
def test_a_mutated_gzip_file_is_refused_or_unharmed(data):
    try:
        images = idx.parse(data, "file")
    except DataError:
        return
    np.testing.assert_array_equal(images, IMAGES)  # the CRC covers every pixel


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_refused_or_exact(data):
    for candidate in (data, PLAIN[:4] + data, gzip.compress(data), PACKED[:10] + data):
        try:
            images = idx.parse(candidate, "file")
        except DataError:
            continue
        assert images.size > 0


@given(st.integers(1, 3), st.data())
def test_any_array_survives_the_round_trip(rank, data):
    shape = data.draw(st.tuples(*[st.integers(1, 20)] * rank))
    array = (np.arange(np.prod(shape)) % 3).astype(np.uint8).reshape(shape)
    np.testing.assert_array_equal(idx.parse(plain(array), "f"), array)
    np.testing.assert_array_equal(idx.parse(gzip.compress(plain(array)), "f"), array)
