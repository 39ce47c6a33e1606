"""Data sets in many files, decoded once: a folder of .npy files in the cache folder.

Its name is a digest of what it was decoded from: the kind of data, its options, and the name, size
and time of every file. It also holds manifest.json, with the SHA-256 of its arrays, and SHA256SUMS,
with that of every file that was decoded, in the format of sha256sum.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Splits
from trainer.data.digests import of_file
from trainer.data.report import Report
from trainer.data.rows import Mapped
from trainer.job.directory import expanded, not_own
from trainer.job.errors import ConfigError, SaveError, reading, writing
from trainer.job.files import Damaged, parse, read_bytes, sync_tree, write_bytes, write_json
from trainer.job.lock import turn

VERSION = 1  # of how pictures are decoded: raise it when the same files give other arrays
MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
ARRAY = {"bytes": int, "time_ns": int, "sha256": str}
SHAPE = {"arrays": {"*": ARRAY}, "about": {"*": Any}}
HINT = "choose another folder with data.cache_dir=DIR"

# Writes SPLIT_FIELD.npy files into a folder, and calls the function with the bytes that it has
# read; returns JSON about the data, and the SHA-256 of each file by its name.
Decode = Callable[[Path, Callable[[int], None]], tuple[dict[str, Any], dict[str, str]]]


def decoded(
    cache_dir: str,
    kind: str,
    files: Mapping[str, Path],
    options: Mapping[str, Any],
    decode: Decode,
    report: Report,
) -> tuple[Splits, dict[str, Any]]:
    """Return the arrays of a data set, mapped into memory, and what `decode` said about it.

    The files are decoded only if nobody has done it yet. Of several processes on a host, one
    decodes and the others wait.

    Args:
        cache_dir: data.cache_dir; made if it is missing, for this user alone.
        kind: data.name.
        files: what is decoded: its name, relative to the folder of the data -> file.
        options: JSON: all that the arrays depend on beside the files.
        decode: makes the arrays.
        report: its `warn` says where arrays in the cache were damaged and are decoded again.

    Raises:
        ConfigError: the folder belongs to another user, others can write to it, or it cannot be
            written.
        SaveError: its storage is full or read-only.
        DataError: a file cannot be read, or as `decode`.
    """
    root = expanded(cache_dir, "data.cache_dir").absolute()
    with writing(root, HINT):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = not_own(root)
    if problem:
        message = f"data.cache_dir={root} {problem}, who could replace the decoded data"
        raise ConfigError(message, "name a folder of your own")
    with reading(root):  # before they are decoded: a file that changes meanwhile has another key
        states = [(name, path.stat()) for name, path in sorted(files.items())]
    known = [(name, status.st_size, status.st_mtime_ns) for name, status in states]
    content = json.dumps([VERSION, kind, dict(options), known], sort_keys=True)
    digest = hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()
    folder = root / f"{kind}-{digest[:32]}"
    total = sum(status.st_size for _, status in states)
    with writing(root, HINT), turn(root / f"{folder.name}.lock", report.poll):
        try:
            return _read(folder, report.poll)
        except FileNotFoundError:
            pass
        except Damaged as damage:
            report.warn(f"{folder}: {damage}: the data are decoded again")
        _write(folder, decode, total, report)
    try:
        return _read(folder, report.poll)
    except (OSError, Damaged) as error:
        raise SaveError(f"{folder}: {error}", "repair the storage") from None


def create(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Make an .npy file of this size, and return its array, mapped into memory.

    All of its blocks are allocated: else a write to the array would end the process (SIGBUS) when
    the disk is full.
    """
    array: npt.NDArray[Any] = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _read(folder: Path, poll: Callable[[], None]) -> tuple[Splits, dict[str, Any]]:
    """Return the arrays in a folder, mapped into memory, and JSON, such as the names of classes.

    The bytes of an array are read again only if its time is not that of the manifest.

    Raises:
        FileNotFoundError: there is no such folder.
        Damaged: a file is missing, cut short or changed; names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    path, splits = folder / MANIFEST, Splits()
    try:
        manifest = parse(read_bytes(path), SHAPE, f"file {MANIFEST}")
        for name, entry in manifest["arrays"].items():
            path = folder / f"{name}.npy"
            status = path.stat()
            if status.st_size != entry["bytes"]:
                sizes = f"{status.st_size:,} bytes, expected {entry['bytes']:,}"
                raise Damaged(f"file {path.name} has {sizes}")
            if status.st_mtime_ns != entry["time_ns"] and of_file(path, poll) != entry["sha256"]:
                raise Damaged(f"file {path.name} was changed")
            split, field = re.split("[_-]", name, maxsplit=1)  # older versions wrote a hyphen
            splits.setdefault(split, {})[field] = Mapped(np.load(path, mmap_mode="r"))
    except Damaged:
        raise
    except (OSError, ValueError) as error:
        raise Damaged(f"file {path.name} cannot be read ({error})") from None
    return splits, manifest["about"]


def _write(folder: Path, decode: Decode, total: int, report: Report) -> None:
    """Decode `total` bytes into a folder that appears as a whole, in the place of a damaged one."""
    done = 0

    def add(size: int) -> None:
        nonlocal done
        report.poll()
        done = min(done + size, total - 1)  # a picture may be read twice
        report.progress(label, done, total)

    label = f"decoding data={folder.name.partition('-')[0]}"
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    for old in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(old, ignore_errors=True)
    try:
        new.mkdir(mode=0o700)
        about, files = decode(new, add)
        report.progress(label, total, total)
        arrays = {}
        for path in sorted(new.glob("*.npy")):
            status = path.stat()
            entry = {"bytes": status.st_size, "time_ns": status.st_mtime_ns}
            arrays[path.stem] = {**entry, "sha256": of_file(path, report.poll)}
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
        write_bytes(new / SUMS, lines.encode("utf-8", "surrogateescape"))
        write_json(new / MANIFEST, {"arrays": arrays, "about": about})
        sync_tree(new)
        if folder.exists():  # a folder cannot be renamed to one that is not empty
            folder.rename(new / "old")
        new.rename(folder)
        shutil.rmtree(folder / "old", ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
