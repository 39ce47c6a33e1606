"""A data set of 40 small images in MNIST's four files."""

import dataclasses
import gzip
import hashlib

import numpy as np

from trainer.config.compose import compose
from trainer.formats import idx
from trainer.sources.mnist import FILES

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES


def plain(array):
    return idx.header(array.shape) + bytes(array)


def contents(train=30, test=10, side=4):
    """Return the plain bytes of the four files of a small data set."""
    images = np.random.default_rng(0).integers(0, 256, (train + test, side, side), np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    arrays = (images[:train], labels[:train], images[train:], labels[train:])
    return dict(zip(FILES, map(plain, arrays), strict=True))


SMALL = contents()
DIGESTS = {file: hashlib.sha256(data).hexdigest() for file, data in SMALL.items()}


def write(folder, files=SMALL, name="{}.gz"):
    """Write the files into a folder, packed if the name ends in .gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        path = folder / name.format(file)
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return folder


def configuration(name):
    (job,) = compose([f"data={name}"])
    return dataclasses.asdict(job.config.data)


MNIST = configuration("mnist")


def check_small(dataset, name="mnist"):
    assert dataset.name == name
    assert dataset.sha256 == hashlib.sha256("".join(DIGESTS.values()).encode()).hexdigest()
    assert dataset.train["image"].shape == (30, 4, 4)
    assert dataset.test["image"].shape == (10, 4, 4)
    assert dataset.train["image"].tobytes() == SMALL[TRAIN_IMAGES][16:]
    assert dataset.test["label"].tobytes() == SMALL[TEST_LABELS][8:]
    for array in (*dataset.train.values(), *dataset.test.values()):
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert not array.flags.writeable
