"""Files of bytes -> windows of tokens 0 to 255, mapped into memory: nothing is copied."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config.schema import DataConfig
from trainer.data import digests
from trainer.data.dataset import Dataset, Examples
from trainer.data.report import Report
from trainer.data.rows import Mapped
from trainer.formats.find import files_of
from trainer.job.directory import expanded
from trainer.job.errors import DataError, reading

Text = npt.NDArray[np.uint8]  # (bytes,), mapped


def load(data: DataConfig, report: Report) -> Dataset:
    """Return `tokens`, uint8 (N, data.window + 1), of a folder of train.*, test.*, or of one file.

    A model reads a window of bytes; an example has the byte after the window too. Windows begin
    every data.stride bytes, or without it one after the other. Of one file, data.test_fraction of
    its bytes, from the end, are the test split; without validation.*, the end of the bytes to train
    on is the validation split, data.validation_fraction of them.

    Raises:
        DataError: a file is missing, cannot be read, or is too short for one window.
    """
    window = data.window or 0
    stride = data.stride or window
    files = files_of(expanded(str(data.root), "data.root"))
    texts = {split: _mapped(file) for split, file in files.items()}
    known = [f"{window} {stride}"]
    for split, file in files.items():
        read = partial(digests.of_file, file, report.poll)
        known.append(digests.sha256_of(Mapped(texts[split]), data.cache_dir, "bytes", read))
    if "test" not in texts:
        known.append(str(data.test_fraction))
        texts["train"], texts["test"] = _cut(texts["train"], data.test_fraction or 0.0)
    if "validation" not in texts and data.validation_fraction:
        texts["train"], texts["validation"] = _cut(texts["train"], data.validation_fraction)
    splits, hint = dict[str, Any](), "use a smaller data.window or other fractions"
    for split, text in texts.items():
        windows = _windows(text, window, stride, f"data.root={data.root}: {split}", hint)
        splits[split] = {"tokens": Mapped(windows)}
    return Dataset("text", **splits, sha256=hashlib.sha256("\n".join(known).encode()).hexdigest())


def read(file: Path, window: int, stride: int) -> Examples:
    """Return the windows of a file, as those of a training split, each with the byte after it.

    Raises:
        DataError: the file cannot be read, or is too short for one window.
    """
    hint = f"give at least {window + 1:,}: a window, and the byte after it"
    return {"tokens": _windows(_mapped(file), window, stride, str(file), hint)}


def _windows(text: Text, window: int, stride: int, where: str, hint: str) -> Text:
    if len(text) <= window:
        raise DataError(f"{where} has {len(text):,} bytes, and a window {window:,}", hint)
    return np.lib.stride_tricks.sliding_window_view(text, window + 1, subok=True)[::stride]


def _mapped(file: Path) -> Text:
    with reading(file):
        if file.stat().st_size:
            return np.memmap(file, np.uint8, "r")
    raise DataError(f"{file}: is empty", "give a file of text")


def _cut(text: Text, fraction: float) -> tuple[Text, Text]:
    at = len(text) - round(fraction * len(text))
    return text[:at], text[at:]
