"""Atomic files: a reader sees the old file or the new one, even if the writer is killed."""

import contextlib
import json
import math
import os
import secrets
from pathlib import Path

NONFINITE = frozenset({"NaN", "Infinity", "-Infinity"})  # float() reads them back


def to_json(obj: object, indent: int | None = None) -> str:
    """Return strictly valid JSON; NaN and the infinities become the strings in NONFINITE."""
    return json.dumps(_named_nonfinite(obj), indent=indent, allow_nan=False)


def write_json(path: Path, obj: object) -> None:
    """Replace `path` atomically by `obj` as indented JSON."""
    write_text(path, to_json(obj, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically by `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes | bytearray) -> None:
    """Replace `path` atomically by `data`; it is on disk when this returns.

    Raises:
        OSError: it cannot be written; the old file stays and no temporary file is left.
    """
    # In the same folder: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Call fsync on a folder and everything in it."""
    for path in (*folder.rglob("*"), folder):
        sync = sync_folder if path.is_dir() else _sync
        sync(path)


def sync_folder(folder: Path) -> None:
    """Call fsync on a folder, so that the names in it are on disk."""
    # Some network file systems cannot do it; the files are in place all the same.
    with contextlib.suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named_nonfinite(obj: object) -> object:
    if isinstance(obj, float) and not math.isfinite(obj):
        return "NaN" if math.isnan(obj) else "Infinity" if obj > 0 else "-Infinity"
    if isinstance(obj, dict):
        return {key: _named_nonfinite(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_named_nonfinite(value) for value in obj]
    return obj
