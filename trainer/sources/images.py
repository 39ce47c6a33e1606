"""A folder for each class, of PNG and JPEG files -> a Dataset, decoded once.

The folders lie in the folder of the data, DIR/CLASS/*.png, or in one for each split:
DIR/train/CLASS, DIR/test/CLASS and perhaps DIR/validation/CLASS. Classes are numbered in the order
of their names.
"""

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainer.config.schema import DataConfig
from trainer.data.dataset import Bytes, Dataset
from trainer.data.report import Report
from trainer.data.split import held_out
from trainer.formats import cache, image_files
from trainer.job.directory import expanded
from trainer.job.errors import DataError, reading

SPLITS = {"train": "train", "test": "test"}
SPLITS |= dict.fromkeys(("validation", "val", "valid"), "validation")  # folder -> split
SUFFIXES = (".png", ".jpg", ".jpeg")
Files = list[tuple[int, str]]  # the label and the name of each file, relative to the folder


def load(data: DataConfig, report: Report) -> Dataset:
    """Return the pictures in a folder: `image`, uint8 (N, rows, cols[, 3]), and `label`, (N,).

    Without a test split, of each class a fraction of the pictures is held out for testing; which
    ones depends on the names of the files alone.

    Raises:
        ConfigError: as cache.decoded, or there is nothing to test on.
        DataError: the folder has another form, or a picture is broken; names it.
    """
    path = expanded(str(data.root), "data.root")
    classes, splits = _find(path, report.warn)
    if "test" not in splits:
        splits |= _divided(splits["train"], classes, data.test_fraction or 0.0)
    files = {name: path / name for of_split in splits.values() for _, name in of_split}
    options = {"form": [data.image_size, data.channels], "splits": splits}

    def decode(folder: Path, done: Callable[[int], None]) -> tuple[dict[str, Any], dict[str, str]]:
        first, digests = path / splits["train"][0][1], dict[str, str]()
        shape, convert = converter(data, str(first), first.read_bytes)
        for split, labelled in splits.items():
            labels = np.array([label for label, _ in labelled], np.int32)
            np.save(folder / f"{split}_label.npy", labels)
            out = cache.create(folder / f"{split}_image.npy", np.uint8, (len(labels), *shape))
            names = [name for _, name in labelled]
            pictures = [(str(files[name]), files[name].read_bytes) for name in names]
            digests |= zip(names, image_files.decode(pictures, convert, out, done), strict=True)
        return {}, digests

    arrays, _ = cache.decoded(data.cache_dir, "images", files, options, decode, report)
    return Dataset("images", **arrays, class_names=tuple(classes))


def _find(path: Path, warn: Callable[[str], None]) -> tuple[list[str], dict[str, Files]]:
    """Return the names of the classes, and the files of each split in their order."""
    where = f"data.root={path}"
    with reading(path, "correct data.root or its permissions"):
        named = [folder for folder in _folders(path) if folder.name in SPLITS]
        folders = {SPLITS[folder.name]: folder for folder in named}
        if len(folders) < len(named):
            names = ", ".join(folder.name for folder in named)
            raise DataError(f"{where}: two folders of one split: {names}", "leave one there")
        if "train" not in folders:
            folders = {"train": path}
        left = list[Path]()
        by_split = {split: _pictures(folder, left) for split, folder in folders.items()}
    classes = sorted(name for name, files in by_split["train"].items() if files)
    if empty := sorted(by_split["train"].keys() - {*classes}):
        warn(f"{where}: no PNG or JPEG directly in the folder {empty[0]}: it is no class")
    if len(classes) < 2:
        holds = ", ".join(classes) or "none"
        hint = "make one for each class, like DIR/cat/1.png, or DIR/train/cat/1.png"
        if any(file.suffix.lower() in SUFFIXES for file in folders["train"].iterdir()):
            hint = f"{folders['train']} has pictures itself: name the folder above it"
        raise DataError(f"{where}: folders with pictures: {holds}", hint)
    splits = dict[str, Files]()
    for split, of_class in by_split.items():
        if unknown := sorted({n for n, files in of_class.items() if files} - {*classes}):
            message = f"{where}: there is a class {unknown[0]} in {split}, but none in train"
            raise DataError(message, "give all splits the same classes")
        splits[split] = [
            (label, file.relative_to(path).as_posix())
            for label, name in enumerate(classes)
            for file in of_class.get(name, ())
        ]
        if not splits[split]:
            raise DataError(f"{folders[split]}: there are no pictures", "put them there, by class")
    if left:
        more = f" and {len(left) - 1:,} more" if left[1:] else ""
        warn(f"{left[0]}{more}: neither PNG nor JPEG by name, and left out")
    return classes, splits


def _pictures(folder: Path, left: list[Path]) -> dict[str, list[Path]]:
    """Return the pictures in each folder of a class, sorted by name; add other files to `left`."""
    by_class = {}
    for one in _folders(folder):
        files = sorted(f for f in one.iterdir() if not f.name.startswith(".") and f.is_file())
        by_class[one.name] = [file for file in files if file.suffix.lower() in SUFFIXES]
        left += [file for file in files if file.suffix.lower() not in SUFFIXES]
    return by_class


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _divided(files: Files, classes: list[str], fraction: float) -> dict[str, Files]:
    """Return the files to train on, and a fraction of those of each class to test on."""
    train, test = Files(), Files()
    for name, of_class in zip(classes, groupby(files, lambda file: file[0]), strict=True):
        mine = list(of_class[1])
        names, of = "\n".join(file for _, file in mine), f"pictures of the class {name}"
        kept, held = held_out("data.test_fraction", fraction, names, len(mine), of)
        train += [mine[i] for i in kept]
        test += [mine[i] for i in held]
    return {"train": train, "test": test}


def converter(
    data: DataConfig, first: str, read: Callable[[], bytes]
) -> tuple[tuple[int, ...], Callable[[Image.Image], Bytes]]:
    """Return the shape of an image, and what makes its pixels of a picture.

    `read` reads the first picture, which messages call `first`.

    Raises:
        DataError: the first picture is broken.
    """
    colours = (3,) if data.channels == 3 else ()
    if data.image_size is not None:
        shape = (*data.image_size, *colours)
        return shape, partial(image_files.fitted, shape=shape)
    with image_files.quietly():
        _, size = image_files.read_one(first, read, lambda one: (one.height, one.width))
    shape, hint = (*size, *colours), "data.image_size=[ROWS,COLS] scales and crops all to one size"
    return shape, partial(image_files.as_it_is, shape=shape, other=f"but {first}", hint=hint)
