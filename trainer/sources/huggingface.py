"""A data set that save_to_disk of the package datasets wrote -> a Dataset, decoded once.

Pictures are decoded; columns of numbers, and of lists of one length of them, are taken as they are.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Dataset, Examples
from trainer.data.split import divided
from trainer.formats import arrow, cache, image_files
from trainer.formats.arrow import Saved
from trainer.formats.download import Progress
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError
from trainer.sources.images import SPLITS, Form, converter

NAMES = {"images": "image", "img": "image", "labels": "label"}  # column -> field
Batches = Callable[[], Iterator[Any]]


def load(
    root: str,
    cache_dir: str,
    form: Form,
    test_fraction: float,
    columns: Sequence[str] | None,
    *,
    progress: Progress,
    poll: Callable[[], None],
    warn: Callable[[str], None],
) -> Dataset:
    """Return the splits train and test, and perhaps validation; other splits are left out.

    Without a test split, a fraction of the training examples is held out for testing; which ones
    depends on the contents of the files alone.

    Raises:
        ConfigError: as cache.decoded; a column is not there; or there is nothing to test on.
        DataError: the folder has another form, a file is damaged, or a column is not of numbers or
            pictures.
        UnavailableError: pyarrow is not installed.
    """
    path = expanded(root, "data.root")
    saved = arrow.splits(path)
    splits = {SPLITS[name]: one for name, one in saved.items() if name in SPLITS}
    if others := [name for name in saved if name not in SPLITS]:
        warn(f"data.root={path}: splits that are not used: {', '.join(others)}")
    if "train" not in splits:
        holds = ", ".join(saved) or "none"
        raise DataError(f"data.root={path}: no split train, it holds {holds}", "save one so named")
    files = {
        file.relative_to(path).as_posix(): file for one in splits.values() for file in one.files
    }
    options = {
        "form": form,
        "columns": columns,
        "files": {s: len(splits[s].files) for s in splits},
        "features": {s: splits[s].features for s in splits},
    }
    source = cache.Source("huggingface", options, files)
    decode = partial(_decode, path, splits, form, columns, progress, poll)
    decoded = cache.decoded(cache_dir, source, decode, poll=poll, warn=warn)
    examples: dict[str, Examples] = {split: {} for split in splits}
    for name, array in decoded.arrays.items():
        split, _, field = name.partition("_")
        examples[split][field] = array
    train, test = examples["train"], examples.get("test")
    if test is None:
        train, test = divided(train, decoded.about["sha256"], "data.test_fraction", test_fraction)
    names = tuple(decoded.about["class_names"])
    validation = examples.get("validation")
    return Dataset("huggingface", train, test, validation=validation, class_names=names)


def _decode(
    path: Path,
    splits: Mapping[str, Saved],
    form: Form,
    columns: Sequence[str] | None,
    progress: Progress,
    poll: Callable[[], None],
    folder: Path,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the arrays of all splits into a folder; return what identifies and names the data."""
    digests = {
        file.relative_to(path).as_posix(): cache.sha256_of(file, poll)
        for one in splits.values()
        for file in one.files
    }
    total, read = sum(f.stat().st_size for one in splits.values() for f in one.files), 0

    def done(size: int) -> None:
        nonlocal read
        poll()
        read = min(read + size, total - 1)  # a picture may be read twice
        progress(f"decoding {path.name}", read, total)

    class_names: list[str] = []
    for split, one in splits.items():
        counts = [(batch.num_rows, batch.schema.names) for batch in _batches(one)]
        rows, there = sum(n for n, _ in counts), counts[0][1] if counts else []
        if not rows:
            message = f"{path}: split {split} has no rows"
            raise DataError(message, "save it again with examples, or leave the split out")
        for name in there if columns is None else columns:
            if name not in there:
                message = f"data.columns={list(columns or ())}: {path} has no column {name}"
                raise ConfigError(message, f"it has {', '.join(there)}")
            field = NAMES.get(name, name)
            target = folder / f"{split}_{field}.npy"
            if target.exists() or "/" in name:
                message = f"{path}: column {name} would be a second field {field}"
                message = message if "/" not in name else f"{path}: column {name} has a slash"
                raise DataError(message, "name the columns to use with data.columns")
            feature = one.features.get(name)
            kind = feature if isinstance(feature, dict) else {}
            where = f"{path}: column {name} of split {split}"
            if kind.get("_type") == "Image":
                _decode_pictures(one, name, where, form, rows, target, done)
            else:
                _write_numbers(one, name, where, rows, target, done)
            if split == "train" and NAMES.get(name, name) == "label":
                class_names = [str(text) for text in kind.get("names") or ()]
    progress(f"decoding {path.name}", total, total)
    identity = hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()
    return {"sha256": identity, "class_names": class_names}, digests


def _write_numbers(
    saved: Saved, name: str, where: str, rows: int, target: Path, done: Callable[[int], None]
) -> None:
    out: npt.NDArray[Any] | None = None
    first = 0
    for batch in _batches(saved):
        part = arrow.array(batch.column(name), where)
        if out is None:
            shape = (rows, *part.shape[1:])
            out = cache.create(target, part.dtype, shape)
        if part.shape[1:] != out.shape[1:]:
            text = f"{where} holds lists of {part.shape[1:]} and of {out.shape[1:]} elements"
            raise DataError(text, "pad them to one length")
        out[first : first + len(part)] = part
        first += len(part)
        done(part.nbytes)


def _decode_pictures(
    saved: Saved,
    name: str,
    where: str,
    form: Form,
    rows: int,
    target: Path,
    done: Callable[[int], None],
) -> None:
    def pictures() -> Iterator[tuple[str, Callable[[], bytes]]]:
        number = 0
        for batch in _batches(saved):
            for one in batch.column(name):
                yield f"{where}, row {number}", partial(_bytes_of, one.as_py())
                number += 1

    first, read = next(pictures(), (where, bytes))
    shape, convert = converter(form, first, read)
    out = cache.create(target, np.uint8, (rows, *shape))
    image_files.decode(pictures(), convert, out, done)


def _bytes_of(picture: Any) -> bytes:
    """Return the file of a picture: it is in the data, or its path is."""
    if not isinstance(picture, dict):
        return b""
    data: bytes | None = picture.get("bytes")
    path: str | None = picture.get("path")
    return Path(path).read_bytes() if data is None and path else data or b""


def _batches(saved: Saved) -> Iterator[Any]:
    for file in saved.files:
        yield from (batch for batch in arrow.batches(file) if batch.num_rows)
