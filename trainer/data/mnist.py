"""A named data set -> verified arrays: from a folder, the cache, a mirror or an installed package.

A file that is there but corrupt is an error, never passed over; only in the cache folder, which is
ours, it is replaced by a download.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from trainer.data import idx, mnist_5k
from trainer.data.dataset import Bytes, Dataset, Split
from trainer.data.download import Progress, ShouldStop, fetch
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class Missing(DataError):
    """Files that are neither there nor to be had: the case for data.offline_fallback."""


def load(
    name: str,
    *,
    root: Path | None,
    cache_dir: Path,
    mirrors: Sequence[str],
    sha256: Mapping[str, str],
    download: bool,
    offline_fallback: bool,
    timeout_seconds: float,
    num_classes: int,
    progress: Progress,
    should_stop: ShouldStop,
    warn: Callable[[str], None],
) -> Dataset:
    """Return a data set whose every byte was checked.

    Args:
        name: "mnist"; "idx", any folder with four such files; or "mnist_5k", from a package.
        root: folder of the four files, gzip or plain; None for mnist: the cache, then a download.
        cache_dir: folder where downloads are kept.
        mirrors: http(s) addresses of folders, tried in this order.
        sha256: for mnist, of the uncompressed contents of each of FILES.
        download: whether mnist may be downloaded.
        offline_fallback: use mnist_5k, with a warning, where mnist cannot be had.
        timeout_seconds: to connect to a mirror, and for its next bytes.
        num_classes: labels must be below it.
        progress: told file name, bytes so far, bytes in all or None, during a download.
        should_stop: looked at during a download.
        warn: told what the user should know, possibly in several lines.

    Raises:
        ConfigError: an option is missing or wrong.
        DataError: the files are missing, unreadable, not what they should be, or do not match.
        Preempted: should_stop() came true during a download.
    """
    if name != "idx" and num_classes < mnist_5k.CLASSES:
        raise ConfigError(f"data.num_classes={num_classes}: use at least {mnist_5k.CLASSES}")
    if name == "mnist_5k":
        return _assemble(name, mnist_5k.load())
    no_digest = [file for file in FILES if file not in sha256]
    if name == "mnist" and no_digest:
        raise ConfigError(f"data.sha256 has no {no_digest[0]}: use those of conf/data/mnist.yaml")
    option, given = ("data.cache_dir", cache_dir) if root is None else ("data.root", root)
    folder = expanded(given, option)

    def read(path: Path, file: str) -> Bytes:
        return _read(path, file, num_classes, sha256[file] if name == "mnist" else None)

    def get(file: str, target: Path) -> None:
        fetch(
            mirrors,
            f"{file}.gz",
            sha256[file],
            target,
            timeout_seconds=timeout_seconds,
            progress=progress,
            should_stop=should_stop,
        )

    try:
        if root is not None:
            return _assemble(name, _from_root(f"data.root={folder}", folder, read), folder)
        cached = [
            _from_cache(folder, file, read, get if download else None, warn) for file in FILES
        ]
        return _assemble(name, cached, folder)
    except Missing as missing:
        if name == "idx":
            raise
        if not offline_fallback:
            files = "".join(f"\n      {file}.gz" for file in FILES)
            raise Missing(
                f"MNIST was not found: {missing}",
                "Three ways out:\n"
                f"  put these four files, packed or not, into {folder}:{files}\n"
                "  name the folder that has them: data.root=DIR\n"
                "  train on 5,000 of the digits, which need no download: data=mnist_5k",
            ) from missing
        warn(
            "THIS IS NOT THE FULL MNIST: it was not found, and data.offline_fallback=true.\n"
            "Instead, training takes 4,000 and testing 1,000 of its training digits\n"
            "(data=mnist_5k): do not compare the results with those of MNIST.\n"
            f"{missing}"
        )
        return _assemble("mnist_5k", mnist_5k.load())


def load_test(root: Path, num_classes: int) -> tuple[Split, tuple[int, ...]]:
    """Return the test images and labels in a folder, and an image's shape, (rows, cols).

    The folder need not have files to train on.

    Args:
        root: folder of the last two of FILES, gzip or plain.
        num_classes: labels must be below it.

    Raises:
        DataError: the files are missing, unreadable, not what they should be, or do not match.
    """
    read = partial(_read, num_classes=num_classes, expected=None)
    root = expanded(root, "--data")
    images, labels = _from_root(f"{root}", root, read, FILES[2:])
    _check_count(root / FILES[2], images, labels)
    return Split(images.reshape(len(images), -1), labels), images.shape[1:]


def _from_root(
    told: str, root: Path, read: Callable[[Path, str], Bytes], files: Sequence[str] = FILES
) -> list[Bytes]:
    found = [(_find(root, file), file) for file in files]
    missing = "".join(f"\n  {file}[.gz]" for path, file in found if path is None)
    if missing:
        raise Missing(f"{told}: put these files there, or correct it:{missing}")
    return [read(path, file) for path, file in found if path is not None]


def _from_cache(
    cache_dir: Path,
    file: str,
    read: Callable[[Path, str], Bytes],
    get: Callable[[str, Path], None] | None,
    warn: Callable[[str], None],
) -> Bytes:
    path, target = _find(cache_dir, file), cache_dir / f"{file}.gz"
    if path is not None:
        try:
            return read(path, file)
        except DataError as error:
            if get is None:
                raise
            warn(f"{error}\nIt lies in the cache folder, so it is replaced by a download.")
    if get is None:
        raise Missing(f"{cache_dir} has no {file}[.gz], and data.download=false")
    try:
        get(file, target)
    except DataError as error:
        raise Missing(f"{cache_dir} has no good {file}[.gz], and {error}") from error
    if path not in (None, target):
        path.unlink(missing_ok=True)
    return read(target, file)


def _read(path: Path, file: str, num_classes: int, expected: str | None) -> Bytes:
    """Return the array in a file, of which `expected` is the plain contents' SHA-256 if known."""
    array = idx.read_labels(path, num_classes) if "labels" in file else idx.read_images(path)
    if expected is not None and (found := idx.sha256(array)) != expected:
        raise DataError(
            f"{path}: SHA-256 of the uncompressed contents {found}, expected {expected}: this is "
            "not MNIST's file",
            "download it again, or use data=idx data.root=DIR for a set of yours",
        )
    return array


def _find(folder: Path, file: str) -> Path | None:
    """Return where a file lies, under any of the names that are in use."""
    names = (file, f"{file}.gz", file.replace("-idx", ".idx"), file.replace("-idx", ".idx") + ".gz")
    try:
        return next((folder / name for name in names if (folder / name).exists()), None)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror})", "correct its permissions"
        ) from error


def _assemble(name: str, arrays: Sequence[Bytes], folder: Path = Path()) -> Dataset:
    """Return four arrays, images (N, rows, cols) and labels (N,) of each split, as a data set."""
    train_images, train_labels, test_images, test_labels = arrays
    for file, images, labels in zip(FILES[::2], arrays[::2], arrays[1::2], strict=True):
        _check_count(folder / file, images, labels)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{folder}: train images have {train_images.shape[1:]} pixels, test images "
            f"{test_images.shape[1:]}: expected the same",
            "take all files from the same data set",
        )
    digests = "".join(idx.sha256(array) for array in arrays)
    for array in arrays:
        array.setflags(write=False)
    return Dataset(
        name,
        Split(train_images.reshape(len(train_images), -1), train_labels),
        Split(test_images.reshape(len(test_images), -1), test_labels),
        hashlib.sha256(digests.encode()).hexdigest(),
        (test_images.shape[1], test_images.shape[2]),
    )


def _check_count(file: Path, images: Bytes, labels: Bytes) -> None:
    if len(images) != len(labels):
        raise DataError(
            f"{file}: {len(images):,} images but {len(labels):,} labels: expected one label an "
            "image",
            "take both files from the same data set",
        )
