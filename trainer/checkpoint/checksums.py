"""SHA-256 of the arrays and files of a checkpoint: they reveal flipped bits that orbax misses."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer.job.errors import ReadError
from trainer.job.files import Damaged, open_regular

Record = dict[str, Any]  # JSON

SIZE = range(1, 2**31)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
RECORD = {  # the shape of a record: what commands and a start that resumes need of it
    "step": int,
    "processes?": SIZE,  # of a sharded state: those that have written it
    "validation_*": (float, None),
    "test_*": (float, None),
    "meaning": {
        "data set": {
            "name": str,
            "sha256": str,
            "train_examples": int,
            "validation_examples?": int,
            "test_examples": int,
        }
    },
    "versions": {"*": (str, None)},
    "progress?": {"window": [float], "epoch": [float], "skipped": int},
    "config": {
        "train": {"eval_batch_size": SIZE},
        "data": {
            "name": str,
            "cache_dir": str,
            "root?": (str, None),
            "mirrors": [str],
            "sha256": {"*": str},
            "download": bool,
            "timeout_seconds": float,
            "num_classes?": (int, None),
            "pixel_mean?": (float, None),
            "pixel_std?": (float, None),
            "module?": (str, None),
            "window?": (int, None),
            "stride?": (int, None),
        },
        "model": {"module?": (str, None), "hidden_sizes?": ([SIZE], None)},
    },
    "data_root?": (str, None),
    "class_names?": [str],
    "columns?": {"features": [str], "categories": {"*": [Any]}},
    "data_module?": (str, None),
    "objective?": {
        "loss": str,
        "num_classes": SIZE,
        "pixel_mean": float,
        "pixel_std": float,
        "image_shape": [SIZE],
    },
    "example?": {"*": [Any]},
    "module?": str,
    "module_sha256?": str,
}


def of_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_weights(weights: Any, to_host: Callable[[Any], Any] = np.asarray) -> str:
    """Return the SHA-256 over the bytes of all leaves, in tree order, each brought to the host."""
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        sha256.update(bytes_of(to_host(leaf)))
    return sha256.hexdigest()


def of_file(folder: Path, name: str, size: int | None = None) -> str:
    """Return the SHA-256 of a file; one of more than `size` bytes is Damaged and not read."""
    with reading(folder, name), open_regular(folder / name) as file:
        there = os.fstat(file.fileno()).st_size
        if size is not None and there > size:  # a digest of terabytes would take hours
            raise wrong_size(name, there, size)
        return hashlib.file_digest(file, "sha256").hexdigest()


def wrong_size(name: str, there: int, saved: int) -> Damaged:
    """Return the error of a file that is longer or shorter than it was."""
    return Damaged(f"file {name} has {there:,} bytes, but {saved:,} were saved")


@contextmanager
def reading(folder: Path, name: str) -> Iterator[None]:
    """Raise Damaged where a file of a checkpoint is missing, ReadError if the storage fails."""
    try:
        yield
    except _MISSING:
        raise Damaged(f"file {name} is missing") from None
    except OSError as error:
        raise unreadable(folder / name, error) from None


def unreadable(path: Path, error: OSError) -> ReadError:
    """Return the error of a file or folder that the storage does not give."""
    return ReadError(
        f"{path} cannot be read ({error.strerror}). It may be intact, so nothing is renamed or "
        "deleted. Repair the storage or its permissions, then run the same command again"
    )


def of_array(array: Any) -> str:
    """Return the SHA-256 of dtype, shape and bytes of an array."""
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + bytes_of(array)).hexdigest()


def bytes_of(array: Any) -> memoryview:
    """Return the bytes of an array; those of a contiguous one on the host are not copied."""
    # As bytes: numpy's buffers know no bfloat16.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
