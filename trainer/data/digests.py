"""SHA-256 of data sets and files; that of large ones is kept in the cache folder.

To compute one takes a second a gigabyte. Each is kept under a stamp: a digest of the names, sizes
and times of the files. So the bytes are read again only after a file was replaced or changed.
"""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from trainer.data.dataset import Dataset
from trainer.data.rows import LARGE, PART_BYTES, Array, View, parts
from trainer.job.directory import expanded, not_own
from trainer.job.files import write_text


def sha256(
    dataset: Dataset, folder: str | None = None, poll: Callable[[], None] = lambda: None
) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and bytes of all arrays.

    That of large arrays in files is kept in the folder. `poll` is called all the time.
    """

    def digest(stamp: Callable[[Array], bytes] = lambda _: b"") -> str:
        """Return the SHA-256 with stamps instead of the bytes of the arrays that have one."""
        whole = hashlib.sha256()
        # This order stays: a resumed run compares the result with that of its first start.
        for examples in (dataset.train, dataset.test, dataset.validation or {}):
            for name, array in sorted(examples.items()):
                whole.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
                whole.update(instead := stamp(array))
                for part in () if instead else parts(array):
                    poll()
                    whole.update(part.reshape(-1).view(np.uint8).data)
        return whole.hexdigest()

    arrays = [array for split in dataset.splits.values() for array in split.values()]
    if folder is None or not any(map(_stamp, arrays)):
        return digest()
    return remembered(digest(_stamp), folder, digest)


def sha256_of(array: Array, folder: str, kind: str, compute: Callable[[], str]) -> str:
    """Return what a function computes of an array; that of a large one is kept in the folder.

    The kind names the function.
    """
    if not (stamp := _stamp(array)):
        return compute()
    return remembered(hashlib.sha256(kind.encode() + stamp).hexdigest(), folder, compute)


def remembered(stamp: str, folder: str, compute: Callable[[], str]) -> str:
    """Return the SHA-256 that is kept in the folder under a stamp; compute and keep it if none is.

    The caller makes the stamp before the bytes are read: if a file changes meanwhile, its SHA-256
    is kept under a stamp that it no longer has, and is not used again.
    """
    root = expanded(folder, "data.cache_dir")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_own = not not_own(root)
    except OSError:
        is_own = False
    if not is_own:  # another user could replace what is kept there
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
