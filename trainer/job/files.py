"""The files of a run: replaced atomically when they are written, checked when they are read.

Whoever reads one sees the old file or the new one, even if the writer is killed. But a copy may be
half synchronised, somebody may have edited it, or another version may have written it. So all
code reads them by this module, which checks their shape; a file that does not fit is Damaged.

A shape is a type; a range of integers; a set of texts; `[shape]`, a list of them; `(shape, None)`,
which may be null; or a dict: key -> shape. In it, `key?` may be missing, and `key*` stands for all
keys that begin so. Keys without a shape may hold any JSON: another version may have written them.
"""

import contextlib
import io
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from trainer.job.stdout import printable

NONFINITE = frozenset({"NaN", "Infinity", "-Infinity"})  # float() reads them back
LARGEST = 2**26  # bytes of a file of JSON or YAML
LARGEST_LOG = 2**32  # bytes of metrics.jsonl, or of an event file of TensorBoard
_INTEGERS = range(-(2**63), 2**63)


class Damaged(ValueError):
    """A file is not what was written; the message names it, in one line."""


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Return the contents of a regular file: no pipe, which would hang, and no endless device.

    Raises:
        Damaged: it is not a regular file, or has more than `largest` bytes.
        OSError: it is missing, or the storage fails.
    """
    with open_regular(path, largest) as file:
        return file.read()


def open_regular(path: Path, largest: int | None = None) -> io.BufferedReader:
    """Open a file for reading, as `read_bytes` does."""
    status, wrong = path.stat(), None
    if not stat.S_ISREG(status.st_mode):
        wrong = "is not a regular file"
    elif largest is not None and status.st_size > largest:
        wrong = f"has more than {largest:,} bytes"
    if wrong is not None:
        raise Damaged(f"file {path.name} {wrong}")
    return path.open("rb")


@contextlib.contextmanager
def ignoring(path: Path, warn: Callable[[str], object] = lambda _: None) -> Iterator[None]:
    """End the block where a file is missing or cannot be used; in the second case, warn."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            yield
    except (OSError, Damaged) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        warn(f"{path} is ignored: {reason}")


def read_or_empty(
    path: Path,
    shape: dict[str, Any],
    warn: Callable[[str], object] = lambda _: None,
    load: Callable[[bytes], Any] = json.loads,
) -> dict[str, Any]:
    """Return the object in a file of JSON; an empty one if it is missing or cannot be used.

    `warn` gets a message if the file exists and is ignored. `load` reads another format.
    """
    content: dict[str, Any] = {}
    with ignoring(path, warn):
        content = parse(read_bytes(path), shape, f"file {path.name}", load=load)
    return content


def parse(
    text: bytes,
    shape: Any,
    name: str,
    *,
    finite: bool = True,
    load: Callable[[bytes], Any] = json.loads,
) -> Any:
    """Return JSON in a shape: the names in NONFINITE are floats again, and times are datetimes.

    Raises:
        Damaged: it does not fit, is nested too deeply, or has a number out of range (unless
            `finite` is False, also NaN or an infinity); the message begins with `name`.
    """
    try:
        return _fitted(load(text), shape, "", finite)
    except Exception as error:  # RecursionError where it is nested too deeply
        reason = str(error) if isinstance(error, Damaged) else "cannot be parsed"
        raise Damaged(f"{name} {reason}") from None


def _fitted(value: Any, shape: Any, where: str, finite: bool) -> Any:
    """Return a value in a shape; `where` is its path in the file, such as .seconds.step."""
    kind = type(value)
    if value is None and (shape is Any or isinstance(shape, tuple)):
        return None
    if isinstance(shape, tuple):
        shape, _ = shape
    if shape is Any:
        shape = {} if kind is dict else [Any] if kind is list else kind
    if kind is dict and isinstance(shape, dict):
        needed = {key for key in shape if key[-1] not in "?*"}
        if needed <= value.keys():
            return {
                key: _fitted(item, _of(shape, key), f"{where}.{key}", finite)
                for key, item in value.items()
            }
        where += f".{min(needed - value.keys())}"
    elif kind is list and isinstance(shape, list):
        return [_fitted(item, shape[0], where, finite) for item in value]
    elif kind is int and (shape in (int, float) or isinstance(shape, range)):
        if value in (shape if isinstance(shape, range) else _INTEGERS):
            return value
    elif shape is float and kind is float and (math.isfinite(value) or not finite):
        return value
    elif shape is float and kind is str and value in NONFINITE:
        return float(value)
    elif shape is datetime and kind is str:
        with contextlib.suppress(ValueError):
            if (time := datetime.fromisoformat(value)).tzinfo is not None:
                return time
    elif kind in (str, bool) and (
        shape is kind or (isinstance(shape, frozenset) and value in shape)
    ):
        return value
    raise Damaged(f"is not as it was written: {printable(where.lstrip('.')) or 'its contents'}")


def _of(shape: dict[str, Any], key: str) -> Any:
    """Return the shape of what is behind a key."""
    if key in shape or f"{key}?" in shape:
        return shape.get(key, shape.get(f"{key}?"))
    return next((s for k, s in shape.items() if k[-1] == "*" and key.startswith(k[:-1])), Any)


def to_json(obj: object, indent: int | None = None) -> str:
    """Return strictly valid JSON; NaN and the infinities become the strings in NONFINITE."""
    # json writes NaN, Infinity and -Infinity, which no standard has; read back, each is its name.
    named = json.loads(json.dumps(obj), parse_constant=str)
    return json.dumps(named, indent=indent, allow_nan=False)


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
