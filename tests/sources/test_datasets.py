"""The four files of a folder are found under every name, and refused where they do not fit."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from support.small_mnist import (
    DIGESTS,
    SMALL,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    check_small,
    plain,
    write,
)

from trainer.job.errors import ConfigError, DataError
from trainer.sources.mnist import FILES


@pytest.mark.parametrize("name", ["mnist", "idx"])
@pytest.mark.parametrize("spelling", ["{}.gz", "{}"])
@pytest.mark.parametrize("joint", ["-idx", ".idx"])
def test_a_folder_is_read_under_every_spelling(load, tmp_path, name, spelling, joint):
    files = {file.replace("-idx", joint): data for file, data in SMALL.items()}
    check_small(load(name, root=write(tmp_path / "root", files, spelling)), name)


def test_the_home_folder_is_expanded(load, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "some" / "where")
    check_small(load(root=Path("~/some/where")))
    check_small(load(cache_dir=Path("~/some/where")))


def test_mnist_must_have_its_digests_and_idx_need_not(load, tmp_path):
    other = SMALL | {TEST_LABELS: plain(np.zeros(10, np.uint8))}
    root = write(tmp_path / "root", other)
    result = hashlib.sha256(other[TEST_LABELS]).hexdigest()
    expected = DIGESTS[TEST_LABELS]
    with pytest.raises(DataError, match=f"{TEST_LABELS}.gz: .*{result}, expected {expected}.*=idx"):
        load(root=root)
    assert load("idx", root=root).test["label"].max() == 0


@pytest.mark.parametrize("fallback", [False, True])
def test_a_corrupt_file_of_the_user_is_an_error_whatever_the_options(
    load, tmp_path, mirror, fallback
):
    root = write(tmp_path / "root")
    (root / f"{TRAIN_LABELS}.gz").write_bytes(b"garbage")
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}.gz: starts with 67 61 72 62"):
        load(root=root, mirrors=[mirror], offline_fallback=fallback)
    assert load.warnings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({TRAIN_LABELS: plain(np.zeros(29, np.uint8))}, "30 images but 29 labels"),
        ({TEST_LABELS: plain(np.zeros(11, np.uint8))}, "t10k-.* 10 images but 11 labels"),
        (
            {TEST_IMAGES: plain(np.zeros((10, 5, 4), np.uint8))},
            r"train has the fields image uint8\[4, 4\], label uint8\[\], test image uint8\[5, 4\]",
        ),
        ({TEST_LABELS: plain(np.full(10, 10, np.uint8))}, "label 10 at index 0.*expected 0 to 9"),
        (
            {TEST_IMAGES: plain(np.zeros((0, 4, 4), np.uint8))},
            "0 bytes of elements, but the header declares 0 x 4 x 4",
        ),
    ],
)
def test_files_that_do_not_go_together_are_refused(load, tmp_path, change, message):
    root = write(tmp_path / "root", SMALL | change)
    with pytest.raises(DataError, match=f"{root}.*{message}"):
        load("idx", root=root)


SPELLINGS = {
    "EMNIST": lambda file: f"emnist-letters-{file.replace('t10k', 'test')}",
    "capitals": str.upper,
    "a colour data set": lambda file: file.replace("idx3", "idx4"),
    "Kaggle, a folder around each": lambda file: f"{file}/{file}",
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_other_names_that_are_in_use(load, tmp_path, spell):
    for file, data in SMALL.items():
        path = tmp_path / "root" / spell(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    check_small(load("idx", root=tmp_path / "root"), "idx")


def test_a_folder_with_the_name_of_a_file_is_passed_over(load, tmp_path):
    files = {file.replace("-idx", ".idx"): data for file, data in SMALL.items()}
    root = write(tmp_path / "root", files, "{}")
    for file in FILES:
        (root / file).mkdir()
    check_small(load("idx", root=root), "idx")


def test_missing_files_of_a_folder_are_named(load, tmp_path):
    root = write(tmp_path / "root")
    (root / f"{TEST_IMAGES}.gz").unlink()
    (root / "notes.txt").touch()
    (root / "more").mkdir()
    holds = rf"holds more/, notes\.txt, {TEST_LABELS}\.gz, {TRAIN_IMAGES}\.gz, .*: put it"
    with pytest.raises(DataError, match=rf"data\.root={root}: no {TEST_IMAGES}.* it {holds}"):
        load("idx", root=root, offline_fallback=True)


def test_what_is_in_the_folder_instead_is_said(load, tmp_path):
    write(tmp_path / "data" / "MNIST" / "raw")  # torchvision's
    with pytest.raises(DataError, match=rf"it holds MNIST/: .*name the.*{tmp_path}/data/MNIST/raw"):
        load("idx", root=tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it is empty: put it there"):
        load("idx", root=tmp_path / "empty")
    with pytest.raises(DataError, match=r"cannot be read \(No such file"):
        load("idx", root=tmp_path / "nothing")
    several = write(tmp_path / "several", name="emnist-letters-{}")
    with pytest.raises(DataError, match=f"no {TRAIN_IMAGES}.*there, it holds emnist"):
        load("mnist", root=several, download=False)
    write(several, name="emnist-digits-{}")
    with pytest.raises(DataError, match="holds several data sets: emnist-digits-, emnist-letters-"):
        load("idx", root=several)
    (several / TEST_IMAGES).write_bytes(SMALL[TEST_IMAGES])  # never one of this, three of that
    with pytest.raises(DataError, match=f"no {TRAIN_IMAGES}"):
        load("idx", root=several)


def test_wrong_options_are_named(load):
    with pytest.raises(ConfigError, match=r"data\.num_classes=9: use at least 10"):
        load("mnist", num_classes=9)
    with pytest.raises(ConfigError, match=r"data\.sha256 has no t10k-labels-idx1-ubyte"):
        load("mnist", sha256=dict(list(DIGESTS.items())[:3]))
