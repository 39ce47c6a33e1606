"""SHA-256 of large data sets, kept in the cache folder: to compute one takes a second a gigabyte.

It is known by the names, sizes and times of the files. So the bytes of a large data set are read
once, and again only after a file was replaced or changed.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainer.data import dataset
from trainer.data.dataset import Dataset
from trainer.data.rows import LARGE, PART_BYTES, Array, View
from trainer.job.directory import expanded, not_own
from trainer.job.files import write_text


def sha256(of: Dataset, folder: str | None, poll: Callable[[], None] = lambda: None) -> str:
    """Return dataset.sha256(), perhaps from the folder, where arrays are in large files."""
    if folder is None or not any(
        _stamp(array) for split in of.splits.values() for array in split.values()
    ):
        return dataset.sha256(of, poll)
    stamp = dataset.digest(of, lambda array: (_stamp(array),) if _stamp(array) else None)
    return remembered(stamp, folder, lambda: dataset.sha256(of, poll))


def sha256_of(array: Array, folder: str, kind: str, compute: Callable[[Array], str]) -> str:
    """Return what a function computes of an array, perhaps from the folder, if it is large.

    The kind names the function.
    """
    stamp = _stamp(array)
    if not stamp:
        return compute(array)
    name = hashlib.sha256(kind.encode() + stamp).hexdigest()
    return remembered(name, folder, lambda: compute(array))


def remembered(stamp: str, folder: str, compute: Callable[[], str]) -> str:
    """Return the SHA-256 that is kept in the folder under a stamp; compute and keep it if none is.

    The stamp is made before: what is read of a file that changes meanwhile is not kept for its end.
    """
    root = expanded(folder, "data.cache_dir")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_own = not not_own(root)
    except OSError:
        is_own = False
    if not is_own:  # another user could exchange what is kept there
        return compute()
    path = root / "digests" / stamp
    with suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", kept := path.read_text()):
            return kept
    digest = compute()
    with suppress(OSError):  # then it is computed again the next time
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_text(path, digest)
    return digest


def of_file(path: Path, poll: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a file; `poll` is called all the time. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(PART_BYTES):
            poll()
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(array: Array) -> bytes:
    """Return what identifies the bytes of a large array in files; nothing for any other."""
    return array.stamp() if isinstance(array, View) and array.nbytes > LARGE else b""
