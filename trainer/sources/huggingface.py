"""A data set that save_to_disk of the package datasets wrote -> a Dataset, decoded once.

Pictures are decoded; columns of numbers, and of lists of one length of them, are taken as they are.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config.schema import DataConfig
from trainer.data import digests
from trainer.data.dataset import Dataset
from trainer.data.report import Report
from trainer.data.split import with_test
from trainer.formats import arrow, cache, image_files
from trainer.formats.arrow import Saved
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError, reading
from trainer.sources.images import SPLITS, converter

NAMES = {"images": "image", "img": "image", "labels": "label"}  # column -> field
Done = Callable[[int], None]  # given the bytes that were read


def load(data: DataConfig, report: Report) -> Dataset:
    """Return the splits train and test, and perhaps validation; other splits are left out.

    Without a test split, a fraction of the training examples is held out for testing; which ones
    depends on the contents of the files alone.

    Raises:
        ConfigError: as cache.decoded; a column is not there; or there is nothing to test on.
        DataError: the folder has another form, a file is damaged, or a column is not of numbers or
            pictures.
        UnavailableError: pyarrow is not installed.
    """
    path = expanded(str(data.root), "data.root")
    saved = arrow.splits(path)
    splits = {SPLITS[name]: one for name, one in saved.items() if name in SPLITS}
    if others := [name for name in saved if name not in SPLITS]:
        report.warn(f"data.root={path}: splits that are not used: {', '.join(others)}")
    if "train" not in splits:
        holds = ", ".join(saved) or "none"
        raise DataError(f"data.root={path}: no split train, it holds {holds}", "save one so named")
    files = {
        file.relative_to(path).as_posix(): file for one in splits.values() for file in one.files
    }
    options = {
        "form": [data.image_size, data.channels],
        "columns": data.columns,
        "files": {split: len(one.files) for split, one in splits.items()},
        "features": {split: one.features for split, one in splits.items()},
    }
    decode = partial(_decode, path, splits, files, data, report.poll)
    arrays, about = cache.decoded(data.cache_dir, "huggingface", files, options, decode, report)
    parts = with_test(arrays, data.test_fraction, about["sha256"])
    return Dataset("huggingface", **parts, class_names=tuple(about["class_names"]))


def _decode(
    path: Path,
    splits: Mapping[str, Saved],
    files: Mapping[str, Path],
    data: DataConfig,
    poll: Callable[[], None],
    folder: Path,
    done: Done,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the arrays of all splits into a folder; return what identifies and names the data."""
    with reading(path):
        sums = {name: digests.of_file(file, poll) for name, file in files.items()}
    hint = "name the columns to use with data.columns"
    class_names: list[str] = []
    for split, saved in splits.items():
        rows, there = 0, list[str]()
        for batch in arrow.batches(saved.files):
            rows, there = rows + batch.num_rows, batch.schema.names
        if not rows:
            message = f"{path}: split {split} has no rows"
            raise DataError(message, "save it again with examples, or leave the split out")
        for name in there if data.columns is None else data.columns:
            if name not in there:
                message = f"data.columns={data.columns}: {path} has no column {name}"
                raise ConfigError(message, f"it has {', '.join(there)}")
            field = NAMES.get(name, name)
            target = folder / f"{split}_{field}.npy"
            if "/" in name:
                raise DataError(f"{path}: column {name} has a slash", hint)
            if target.exists():
                raise DataError(f"{path}: column {name} would be a second field {field}", hint)
            feature = saved.features.get(name)
            kind = feature if isinstance(feature, dict) else {}
            where = f"{path}: column {name} of split {split}"
            if kind.get("_type") == "Image":
                _write_pictures(saved, name, where, data, rows, target, done)
            else:
                _write_numbers(saved, name, where, rows, target, done)
            if split == "train" and field == "label":
                class_names = [str(text) for text in kind.get("names") or ()]
    identity = hashlib.sha256(json.dumps(sorted(sums.items())).encode()).hexdigest()
    return {"sha256": identity, "class_names": class_names}, sums


def _write_numbers(
    saved: Saved, name: str, where: str, rows: int, target: Path, done: Done
) -> None:
    out: npt.NDArray[Any] | None = None
    first = 0
    for batch in arrow.batches(saved.files):
        part = arrow.array(batch.column(name), where)
        if out is None:
            out = cache.create(target, part.dtype, (rows, *part.shape[1:]))
        if part.shape[1:] != out.shape[1:]:
            text = f"{where} holds lists of {part.shape[1:]} and of {out.shape[1:]} elements"
            raise DataError(text, "pad them to one length")
        out[first : first + len(part)] = part
        first += len(part)
        done(part.nbytes)


def _write_pictures(
    saved: Saved, name: str, where: str, data: DataConfig, rows: int, target: Path, done: Done
) -> None:
    def pictures() -> Iterator[tuple[str, Callable[[], bytes]]]:
        cells = (cell for batch in arrow.batches(saved.files) for cell in batch.column(name))
        for number, cell in enumerate(cells):
            yield f"{where}, row {number}", partial(_bytes_of, cell.as_py())

    shape, convert = converter(data, *next(pictures()))
    out = cache.create(target, np.uint8, (rows, *shape))
    image_files.decode(pictures(), convert, out, done)


def _bytes_of(picture: Any) -> bytes:
    """Return the file of a picture: it is in the data, or its path is."""
    if not isinstance(picture, dict):
        return b""
    data: bytes | None = picture.get("bytes")
    path: str | None = picture.get("path")
    return Path(path).read_bytes() if data is None and path else data or b""
