"""A folder for each class, of PNG and JPEG files -> a Dataset, decoded once.

The folders lie in the folder of the data, DIR/CLASS/*.png, or in one for each split:
DIR/train/CLASS, DIR/test/CLASS and perhaps DIR/validation/CLASS. Classes are numbered in the order
of their names.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from trainer.data.dataset import Bytes, Dataset
from trainer.data.split import held_out
from trainer.formats import cache, image_files
from trainer.formats.download import Progress
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError

SPLITS = {"train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("validation", "val", "valid"), "validation")  # folder -> split
SUFFIXES = (".png", ".jpg", ".jpeg")
Files = list[tuple[int, str]]  # the label and the name of each file, relative to the folder


class Form(NamedTuple):
    """How the pictures become arrays."""

    image_size: Sequence[int] | None  # rows, cols; None: that of all pictures
    channels: int  # 1: grey, 3: RGB


def load(
    root: str,
    cache_dir: str,
    form: Form,
    test_fraction: float,
    *,
    progress: Progress,
    poll: Callable[[], None],
    warn: Callable[[str], None],
) -> Dataset:
    """Return the pictures in a folder: `image`, uint8 (N, rows, cols[, 3]), and `label`, (N,).

    Without a test split, of each class a fraction of the pictures is held out for testing; which
    ones depends on the names of the files alone.

    Raises:
        ConfigError: as cache.decoded, or there is nothing to test on.
        DataError: the folder has another form, or a picture is broken; names it.
    """
    path = expanded(root, "data.root")
    classes, splits = _find(path, warn)
    if "test" not in splits:
        splits = _split(splits, classes, test_fraction, path)
    names = [name for files in splits.values() for _, name in files]
    options = {"form": form, "splits": splits}
    source = cache.Source("images", options, {name: path / name for name in names})
    decode = partial(_decode, path, splits, form, progress, poll)
    arrays = cache.decoded(cache_dir, source, decode, poll=poll, warn=warn).arrays
    examples = {
        split: {field: arrays[f"{split}_{field}"] for field in ("image", "label")}
        for split in splits
    }
    train, test, validation = (examples.get(s) for s in ("train", "test", "validation"))
    assert train is not None
    assert test is not None
    return Dataset("images", train, test, validation=validation, class_names=tuple(classes))


def _find(path: Path, warn: Callable[[str], None]) -> tuple[list[str], dict[str, Files]]:
    """Return the names of the classes, and the files of each split in their order."""
    where = f"data.root={path}"
    try:
        named = [f for f in _folders(path) if f.name in SPLITS]
        folders = {SPLITS[f.name]: f for f in named}
        if len(folders) < len(named):
            names = ", ".join(f.name for f in named)
            raise DataError(f"{where}: two folders of one split: {names}", "leave one there")
        if "train" not in folders:
            folders = {"train": path}
        found = {split: _pictures(folder) for split, folder in folders.items()}
    except OSError as error:
        message = f"{error.filename or path}: cannot be read ({error.strerror})"
        raise DataError(message, "correct data.root or its permissions") from None
    classes = sorted(name for name, (pictures, _) in found["train"].items() if pictures)
    if empty := sorted(found["train"].keys() - {*classes}):
        warn(f"{where}: no PNG or JPEG directly in the folder {empty[0]}: it is no class")
    if len(classes) < 2:
        holds = ", ".join(classes) or "none"
        hint = "make one for each class, like DIR/cat/1.png, or DIR/train/cat/1.png"
        raise DataError(f"{where}: folders with pictures: {holds}", hint)
    splits = dict[str, Files]()
    for split, of_class in found.items():
        if unknown := sorted({n for n, (files, _) in of_class.items() if files} - {*classes}):
            message = f"{where}: there is a class {unknown[0]} in {split}, but none in train"
            raise DataError(message, "give all splits the same classes")
        splits[split] = [
            (label, file.relative_to(path).as_posix())
            for label, name in enumerate(classes)
            for file in of_class.get(name, ((), ()))[0]
        ]
        if not splits[split]:
            raise DataError(f"{folders[split]}: there are no pictures", "put them there, by class")
    if left := [file for of in found.values() for _, others in of.values() for file in others]:
        more = f" and {len(left) - 1:,} more" if left[1:] else ""
        warn(f"{left[0]}{more}: neither PNG nor JPEG by name, and left out")
    return classes, splits


def _pictures(folder: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Return the pictures in each folder of a class, and the other files, sorted by name."""
    found = {}
    for one in _folders(folder):
        files = sorted(f for f in one.iterdir() if not f.name.startswith(".") and f.is_file())
        pictures, others = list[Path](), list[Path]()
        for file in files:
            (pictures if file.suffix.lower() in SUFFIXES else others).append(file)
        found[one.name] = (pictures, others)
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _split(
    splits: Mapping[str, Files], classes: list[str], fraction: float, path: Path
) -> dict[str, Files]:
    """Return splits with one for testing, made of a fraction of each class in `train`."""
    option = f"data.test_fraction={fraction}"
    if not fraction:
        hint = "make a folder `test` beside `train`, or use a fraction above 0"
        raise ConfigError(f"{option}: data.root={path} has no folder of test pictures", hint)
    train, test = Files(), Files()
    for name, of_class in zip(classes, groupby(splits["train"], lambda file: file[0]), strict=True):
        files = list(of_class[1])
        count = max(1, round(fraction * len(files)))
        if count >= len(files):
            message = f"{option}: class {name} has {len(files)} pictures, none is left to train on"
            raise ConfigError(message, "add pictures, or use a smaller fraction")
        kept, held = held_out("\n".join(file for _, file in files), len(files), count)
        train += [files[i] for i in kept]
        test += [files[i] for i in held]
    return {**splits, "train": train, "test": test}


def _decode(
    path: Path,
    splits: Mapping[str, Files],
    form: Form,
    progress: Progress,
    poll: Callable[[], None],
    folder: Path,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the arrays of all splits into a folder; return {}, and the SHA-256 of each file."""
    first = splits["train"][0][1]
    shape, convert = converter(form, str(path / first), (path / first).read_bytes)
    total = sum((path / name).stat().st_size for of in splits.values() for _, name in of)
    read, digests = 0, dict[str, str]()

    def done(size: int) -> None:
        nonlocal read
        poll()
        read += size
        progress(f"decoding {path.name}", read, total)

    for split, files in splits.items():
        labels = np.array([label for label, _ in files], np.int32)
        np.save(folder / f"{split}_label.npy", labels)
        out = cache.create(folder / f"{split}_image.npy", np.uint8, (len(files), *shape))
        names = [name for _, name in files]
        pictures = [(str(path / name), (path / name).read_bytes) for name in names]
        sums = image_files.decode(pictures, convert, out, done)
        digests |= zip(names, sums, strict=True)
    return {}, digests


def converter(
    form: Form, first: str, read: Callable[[], bytes]
) -> tuple[tuple[int, ...], Callable[[Image.Image], Bytes]]:
    """Return the shape of an image, and what makes its pixels of a picture.

    `read` reads the first picture, which messages call `first`.

    Raises:
        DataError: the first picture is broken.
    """
    channels = (3,) if form.channels == 3 else ()
    if form.image_size is not None:
        shape = (*form.image_size, *channels)
        return shape, partial(image_files.fitted, shape=shape)
    with image_files.quietly():
        _, size = image_files.read_one(first, read, lambda one: (one.height, one.width))
    shape = (*size, *channels)

    def convert(picture: Image.Image) -> Bytes:
        if (picture.height, picture.width) != size:
            sizes = f"{picture.width} x {picture.height} pixels, but {first} {size[1]} x {size[0]}"
            hint = "data.image_size=[ROWS,COLS] scales and crops all pictures to one size"
            raise image_files.PictureError(f"{sizes}: {hint}")
        return image_files.pixels(picture, shape)

    return shape, convert
