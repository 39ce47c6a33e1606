"""Numpy's files -> a Dataset: a folder of .npy files, which are mapped into memory, or one .npz.

An array is named SPLIT_FIELD, such as `train_image` and `test_label`, or FIELD_SPLIT, as Keras does
(`x_train`). In a folder, SPLIT/FIELD.npy will do too. Nothing is ever unpickled.
"""

import re
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from trainer.config.schema import DataConfig
from trainer.data.dataset import SPLITS, Dataset, Examples, Splits
from trainer.data.report import Report
from trainer.job.directory import expanded
from trainer.job.errors import DataError

NAME = re.compile(r"(?:(train|validation|test)[_/](\w+)|(\w+)_(train|validation|test))")
NAMES = {"images": "image", "labels": "label"}
OF_KERAS = {"x": "image", "y": "label"}


def load(data: DataConfig, _: Report) -> Dataset:
    """Return the arrays in a folder or an .npz file, as they are: the caller checks them.

    Raises:
        DataError: there are none of a split, or a file cannot be read.
    """
    path = expanded(str(data.root), "data.root")
    try:
        arrays = _read(path)
    except (OSError, EOFError, ValueError, BadZipFile, zlib.error) as error:
        is_object = any(word in str(error) for word in ("pickle", "Python objects"))
        reason = "it holds Python objects" if is_object else error
        message = f"data.root={path}: cannot be read ({reason})"
        raise DataError(message, "give a folder of .npy files, or an .npz file") from error
    splits: Splits = {split: {} for split in SPLITS}
    for name, array in arrays.items():
        if (match := NAME.fullmatch(name)) is not None:
            split, field = match[1] or match[4], match[2] or match[3]
            field = NAMES.get(field, field)
            if field in splits[split]:
                message = f"data.root={path}: {name} would be a second {split}_{field}"
                raise DataError(message, "leave one of them there")
            splits[split][field] = array
    if missing := [split for split in ("train", "test") if not splits[split]]:
        holds = ", ".join(sorted(arrays)) or "nothing"
        hint = "name arrays like train_image, train_label, test_image and test_label"
        raise DataError(f"data.root={path}: no array of {missing[0]} there, it holds {holds}", hint)
    splits = {split: _renamed(fields) for split, fields in splits.items() if fields}
    return Dataset("arrays", **splits)


def _read(path: Path) -> dict[str, Any]:
    """Return the arrays by name; of an .npz file all are read."""
    if path.is_dir():
        files = sorted(path.glob("*.npy")) + sorted(path.glob("*/*.npy"))
        return {
            file.relative_to(path).with_suffix("").as_posix(): np.load(file, mmap_mode="r")
            for file in files
        }
    with path.open("rb") as file:
        loaded = np.load(file)  # without pickle, numpy's default
        return {} if isinstance(loaded, np.ndarray) else dict(loaded)


def _renamed(fields: Examples) -> Examples:
    """Return x and y, as Keras calls images and labels, as `image` and `label`; others as given."""
    if (x := fields.get("x")) is None or x.dtype != np.uint8 or x.ndim < 3:
        return fields
    return {OF_KERAS.get(name, name): array for name, array in fields.items()}
