"""Files of bytes -> windows of tokens 0 to 255, mapped into memory: nothing is copied."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.data import digests
from trainer.data.dataset import Dataset, Examples
from trainer.data.mapped import Mapped
from trainer.data.rows import Array, parts
from trainer.formats.find import files_of
from trainer.job.directory import expanded
from trainer.job.errors import DataError

Text = npt.NDArray[np.uint8]  # (bytes,), mapped


def load(
    root: str,
    window: int,
    stride: int | None,
    test_fraction: float,
    validation_fraction: float,
    cache: str,
) -> Dataset:
    """Return `tokens`, uint8 (N, window + 1), of a folder of train.*, test.*, or of one file.

    Args:
        root: the folder, in which validation.* may be, too; or the file.
        window: bytes that a model reads; an example has the one after them, too.
        stride: bytes from the start of a window to that of the next; None: `window`.
        test_fraction: of the bytes of one file, from its end.
        validation_fraction: of the bytes to train on, from their end, without validation.*.
        cache: the folder of digests.

    Raises:
        DataError: a file is missing, cannot be read, or is too short for one window.
    """
    files = files_of(expanded(root, "data.root"), "data.root")
    known, texts = [f"{window} {stride or window}"], dict[str, Text]()
    for split, file in files.items():
        texts[split] = whole = _mapped(file)
        known.append(digests.sha256_of(Mapped(whole), cache, "bytes", _sha256))
    if "test" not in texts:
        known.append(str(test_fraction))
        texts["train"], texts["test"] = _cut(texts["train"], test_fraction)
    if "validation" not in texts and validation_fraction:
        texts["train"], texts["validation"] = _cut(texts["train"], validation_fraction)
    splits: dict[str, Examples] = {}
    for split, text in texts.items():
        if len(text) <= window:
            message = f"data.root={root}: {split} has {len(text):,} bytes, and a window {window:,}"
            raise DataError(message, "use a smaller data.window or other fractions")
        splits[split] = {"tokens": Mapped(_windows(text, window + 1, stride or window))}
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()
    validation = splits.get("validation")
    return Dataset("text", splits["train"], splits["test"], digest, validation)


def _mapped(file: Path) -> Text:
    try:
        if file.stat().st_size:
            return np.memmap(file, np.uint8, "r")
    except OSError as error:
        message = f"{file}: cannot be read ({error.strerror})"
        raise DataError(message, "correct the path or its permissions") from error
    raise DataError(f"{file}: is empty", "give a file of text")


def _cut(text: Text, fraction: float) -> tuple[Text, Text]:
    at = len(text) - round(fraction * len(text))
    return text[:at], text[at:]


def _windows(text: Text, length: int, stride: int) -> Text:
    """Return all windows, (N, length); they may overlap."""
    shape = ((len(text) - length) // stride + 1, length)
    return np.lib.stride_tricks.as_strided(text, shape, (stride, 1), subok=True, writeable=False)


def _sha256(text: Array) -> str:
    digest = hashlib.sha256()
    for part in parts(text):
        digest.update(part.data)
    return digest.hexdigest()
