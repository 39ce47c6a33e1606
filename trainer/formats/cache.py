"""Data sets in many files, decoded once: a folder of .npy files in the cache folder.

Its name is a digest of what it was decoded from: the kind of data, its options, and the name, size
and time of every file. It also holds manifest.json, with the SHA-256 of its arrays, and SHA256SUMS,
with that of every file that was decoded, in the format of sha256sum.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.data.digests import of_file
from trainer.job.directory import expanded, not_own
from trainer.job.errors import ConfigError, DataError, SaveError, writing
from trainer.job.files import Damaged, parse, read_bytes, sync_tree, write_bytes, write_json
from trainer.job.lock import turn

VERSION = 1  # of how pictures are decoded: raise it when the same files give other arrays
MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
ARRAY = {"bytes": int, "time_ns": int, "sha256": str}
SHAPE = {"arrays": {"*": ARRAY}, "about": {"*": Any}}
HINT = "choose another folder with data.cache_dir=DIR"


class Decoded(NamedTuple):
    """What a folder of the cache holds."""

    arrays: dict[str, Any]  # name -> array, mapped into memory
    about: dict[str, Any]  # JSON, such as the names of classes


class Source(NamedTuple):
    """What is decoded."""

    kind: str  # data.name
    options: Mapping[str, Any]  # JSON: all that the arrays depend on beside the files
    files: Mapping[str, Path]  # name, relative to the folder of the data -> file


def decoded(
    cache_dir: str,
    source: Source,
    decode: Callable[[Path], tuple[dict[str, Any], dict[str, str]]],
    *,
    poll: Callable[[], None],
    warn: Callable[[str], None],
) -> Decoded:
    """Return the arrays of a data set; decode its files where nobody has done it yet.

    Of several processes on a host, one decodes and the others wait.

    Args:
        cache_dir: data.cache_dir; made if it is missing, for this user alone.
        source: what is decoded.
        decode: writes NAME.npy files into a folder; returns `about`, and the SHA-256 of each file.
        poll: called while waiting for another process; may raise, to end the wait.
        warn: gets a message where arrays in the cache were damaged and are decoded again.

    Raises:
        ConfigError: the folder belongs to another user, others can write to it, or it cannot be
            written.
        SaveError: its storage is full or read-only.
        DataError: as `decode`.
    """
    root = expanded(cache_dir, "data.cache_dir").absolute()
    with writing(root, HINT):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        problem = not_own(root)
    if problem:
        message = f"data.cache_dir={root} {problem}, who could exchange the decoded data"
        raise ConfigError(message, "name a folder of your own")
    folder = root / f"{source.kind}-{_key(source)}"
    with writing(root, HINT), turn(root / f"{folder.name}.lock", poll):
        try:
            return _read(folder, poll)
        except FileNotFoundError:
            pass
        except Damaged as damage:
            warn(f"{folder}: {damage}: the data are decoded again")
        _write(folder, decode, poll)
    try:
        return _read(folder, poll)
    except (OSError, Damaged) as error:
        raise SaveError(f"{folder}: {error}", "repair the storage") from None


def create(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Make an .npy file, with its place on the disk, and return its array, mapped into memory.

    Without the place, writing to the array would end the process where the disk is full.
    """
    array: npt.NDArray[Any] = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def sha256_of(path: Path, poll: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a file; `poll` is called all the time.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return of_file(path, poll)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    message = f"{path}: cannot be read ({error.strerror})"
    return DataError(message, "correct the path or its permissions")


def _key(source: Source) -> str:
    """Return what identifies the arrays, 32 hexadecimal digits."""
    files = []
    for name, path in sorted(source.files.items()):
        try:
            status = path.stat()
        except OSError as error:
            raise _unreadable(path, error) from None
        files.append((name, status.st_size, status.st_mtime_ns))
    content = json.dumps([VERSION, source.kind, dict(source.options), files], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _read(folder: Path, poll: Callable[[], None]) -> Decoded:
    """Return what a folder holds.

    The bytes of an array are read again only if its time is not that of the manifest.

    Raises:
        FileNotFoundError: there is no such folder.
        Damaged: a file is missing, cut short or changed; names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    arrays = {}
    try:
        manifest = parse(read_bytes(folder / MANIFEST), SHAPE, f"file {MANIFEST}")
        for name, entry in manifest["arrays"].items():
            path = folder / f"{name}.npy"
            status = path.stat()
            if status.st_size != entry["bytes"]:
                sizes = f"{status.st_size:,} bytes, expected {entry['bytes']:,}"
                raise Damaged(f"file {path.name} has {sizes}")
            if status.st_mtime_ns != entry["time_ns"] and of_file(path, poll) != entry["sha256"]:
                raise Damaged(f"file {path.name} was changed")
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        if isinstance(error, Damaged):
            raise
        name = Path(error.filename).name if isinstance(error, OSError) and error.filename else ""
        raise Damaged(f"file {name or 'of an array'} cannot be read ({error})") from None
    return Decoded(arrays, manifest["about"])


def _write(
    folder: Path,
    decode: Callable[[Path], tuple[dict[str, Any], dict[str, str]]],
    poll: Callable[[], None],
) -> None:
    """Decode into a folder that appears as a whole, in the place of a damaged one."""
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    for old in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
        shutil.rmtree(old, ignore_errors=True)
    try:
        new.mkdir(mode=0o700)
        about, files = decode(new)
        arrays = {}
        for path in sorted(new.glob("*.npy")):
            status = path.stat()
            entry = {"bytes": status.st_size, "time_ns": status.st_mtime_ns}
            arrays[path.stem] = {**entry, "sha256": of_file(path, poll)}
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
        write_bytes(new / SUMS, lines.encode("utf-8", "surrogateescape"))
        write_json(new / MANIFEST, {"arrays": arrays, "about": about})
        sync_tree(new)
        if folder.exists():
            folder.rename(new / "old")
        new.rename(folder)
        shutil.rmtree(folder / "old", ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
