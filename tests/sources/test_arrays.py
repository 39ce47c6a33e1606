"""Numpy's files as a data set: which names are known, what is mapped, what is refused."""

import numpy as np
import pytest

from trainer.config.compose import compose
from trainer.data.report import Report
from trainer.data.rows import Mapped
from trainer.job.errors import ConfigError, DataError
from trainer.sources.load import load

DRAW = np.random.default_rng(0)
ARRAYS = {
    "train_image": DRAW.integers(0, 256, (30, 4, 5, 3), np.uint8),
    "train_label": np.arange(30) % 7,
    "test_image": DRAW.integers(0, 256, (10, 4, 5, 3), np.uint8),
    "test_label": np.arange(10) % 7,
}


def loaded(root):
    (job,) = compose(["data=arrays", f"data.root={root}", "data.validation_fraction=0"])
    quiet = Report(lambda *_: None, lambda: None, pytest.fail)
    return load(job.config.data, quiet)


def write(folder, arrays, name="{}"):
    for field, array in arrays.items():
        path = folder / f"{name.format(field)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def of_keras(field):
    split, kind = field.split("_")
    return f"{'x' if kind == 'image' else 'y'}_{split}"


LAYOUTS = {
    "a folder": lambda folder: write(folder, ARRAYS),
    "folders": lambda folder: write(
        folder, {name.replace("_", "/"): array for name, array in ARRAYS.items()}
    ),
    "plurals": lambda folder: write(folder, ARRAYS, "{}s"),
    "Keras": lambda folder: write(folder, {of_keras(n): a for n, a in ARRAYS.items()}),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("in_one", [False, True], ids=["npy", "npz"])
def test_the_same_arrays_under_every_name(tmp_path, layout, in_one):
    root = layout(tmp_path / "data")
    if in_one:
        names = [path.relative_to(root).with_suffix("") for path in root.rglob("*.npy")]
        arrays = {name.as_posix(): np.load(root / f"{name}.npy") for name in names}
        root = tmp_path / "data.npz"
        np.savez(root, **arrays)
    dataset = loaded(root)
    for name, array in ARRAYS.items():
        split, field = name.split("_")
        value = getattr(dataset, split)[field]
        np.testing.assert_array_equal(value, array)
        assert value.dtype == (np.uint8 if field == "image" else np.int32)
    assert isinstance(dataset.train["image"], Mapped) != in_one
    assert dataset.sha256 == loaded(write(tmp_path / "plain", ARRAYS)).sha256


def test_fields_keep_their_names_where_they_are_no_images(tmp_path):
    numbers = {"x_train": np.ones((3, 2)), "y_train": np.ones(3)}
    both = numbers | {name.replace("train", "test"): a for name, a in numbers.items()}
    assert set(loaded(write(tmp_path, both)).train) == {"x", "y"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_label": np.array([{}] * 30)}, DataError, "cannot be read .it holds Python obj"),
        (
            {"train_label": None},
            ConfigError,
            "train has the fields image uint8.4, 5, 3., test image uint8.4, 5, 3., la",
        ),
        ({"train_label": np.zeros(29)}, ConfigError, "image 30, label 29 examples"),
        ({"test_label": np.array(["a"] * 10)}, ConfigError, "has dtype <U1: use numbers"),
        ({"train_image": None, "train_label": None}, DataError, "no array of train there, it ho"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, error, message):
    arrays = {name: array for name, array in (ARRAYS | change).items() if array is not None}
    with pytest.raises(error, match=rf"data\.root={tmp_path}: .*{message}"):
        loaded(write(tmp_path, arrays))


@pytest.mark.parametrize("contents", [None, b"", b"text", b"PK\3\4cut short", b"\x93NUMPY\1\0"])
def test_a_file_that_is_none_of_numpys(tmp_path, contents):
    path = tmp_path / "data.npz"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(DataError, match=r"data\.npz: cannot be read .*: give a folder of \.npy"):
        loaded(path)


def test_a_damaged_compressed_file(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **ARRAYS)
    data = bytearray(path.read_bytes())
    start = 30 + int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"data\.npz: cannot be read .*invalid block type"):
        loaded(path)
