"""A folder of files that appears as a whole or not at all, and replaces only an earlier one."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainer.job.errors import ConfigError, cannot_write
from trainer.job.files import write_json

INDEX = "model.json"  # describes the export and lists the other files with their SHA-256
FORMAT = "trainer-export"
CACHE = "__pycache__"  # Python makes it where somebody imports predict.py


def check_target(target: Path, *, replace: bool) -> None:
    """Check that an export may be written to a folder.

    Args:
        target: the folder.
        replace: whether an earlier export in it may be replaced.

    Raises:
        ConfigError: it holds something else, or an export that must not be replaced.
    """
    hint = "name a folder that does not exist yet"
    try:
        names = {path.name for path in target.iterdir()} if target.exists() else set()
    except OSError as error:
        raise ConfigError(f"DIR={target}: {error.strerror}", hint) from None
    if not names:
        return
    listed = _listed(target)
    if listed is None:
        raise ConfigError(f"DIR={target} holds files that are not from an export", hint)
    if others := sorted(names - listed - {CACHE}):
        raise ConfigError(f"DIR={target} holds an export and other files ({others[0]})", hint)
    if not replace:
        raise ConfigError(f"DIR={target} holds an export", f"add --replace, or {hint}")


@contextmanager
def replacing(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `target` when the block ends without an error.

    Args:
        target: the folder.
        replace: as in check_target.

    Raises:
        ConfigError: as in check_target, or the folder cannot be written. The old one stays.
        SaveError: its storage is full or broken. The old one stays.
    """
    target = target.resolve()
    token = secrets.token_hex(8)
    temporary, old = (target.with_name(f".{target.name}.{token}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        yield temporary
        check_target(target, replace=replace)  # again: the work may have taken a while
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            with suppress(FileNotFoundError):
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise cannot_write(f"DIR={target}", error, "name another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_index(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Write the index and return the SHA-256 of all other files, by name.

    Args:
        folder: that holds the files.
        description: JSON, for the index.
    """
    files = sorted(path for path in folder.iterdir() if path.name != INDEX)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    write_json(folder / INDEX, {"format": FORMAT, **description, "sha256": digests})
    return digests


def _listed(folder: Path) -> set[str] | None:
    """Return the names of the files of an export; None if the folder is not one."""
    try:
        index = json.loads((folder / INDEX).read_text())
        return {INDEX, *index["sha256"]} if index["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
