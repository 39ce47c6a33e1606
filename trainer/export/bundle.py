"""A folder of files that appears whole under its name or not at all, and replaces only its like."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainer.job.errors import ConfigError, cannot_write
from trainer.job.files import write_json

INDEX = "model.json"  # lists the other files with their digests, and says what they are
FORMAT = "trainer-export"
CACHE = "__pycache__"  # which Python makes where somebody imports a file of a bundle


def check_target(target: Path, *, replace: bool) -> None:
    """Check that a bundle may be put in place under a name.

    Args:
        target: the folder to be made.
        replace: whether it may take the place of an earlier bundle.

    Raises:
        ConfigError: there is something else, or a bundle that is not to be replaced.
    """
    fix = "name a folder that does not exist yet"
    try:
        names = {path.name for path in target.iterdir()} if target.exists() else set()
    except OSError as error:
        raise ConfigError(f"DIR={target}: {error.strerror}: {fix}") from None
    if not names:
        return
    listed = _listed(target)
    if listed is None:
        raise ConfigError(f"DIR={target} holds files that no export has put there: {fix}")
    if others := sorted(names - listed - {CACHE}):
        raise ConfigError(f"DIR={target} holds an export and others' files ({others[0]}): {fix}")
    if not replace:
        raise ConfigError(f"DIR={target} holds an export: add --replace, or {fix}")


@contextmanager
def making(target: Path, *, replace: bool) -> Iterator[Path]:
    """Give a folder to write to, and put it in place when the block ends well.

    Args:
        target: the folder to be made.
        replace: see check_target.

    Raises:
        ConfigError: as check_target, or the folder cannot be written; nothing is left then.
        SaveError: its storage is full or broken; nothing is left either.
    """
    target = target.resolve()
    token = secrets.token_hex(8)
    temporary = target.with_name(f".{target.name}.{token}.tmp")
    try:
        temporary.mkdir(parents=True)
        with _locked(temporary):
            yield temporary
            check_target(target, replace=replace)  # as late as can be
            _put(temporary, target, target.with_name(f".{target.name}.{token}.old"))
        _delete_leftovers(target)
    except OSError as error:
        raise cannot_write(f"DIR={target}", error, "name another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_index(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Write the index, with the SHA-256 of all other files, by name; return these.

    Args:
        folder: with the files.
        description: JSON, for the index.
    """
    files = sorted(path for path in folder.iterdir() if path.name != INDEX)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    write_json(folder / INDEX, {"format": FORMAT, **description, "sha256": digests})
    return digests


def _put(new: Path, target: Path, aside: Path) -> None:
    """Move a folder to its place; what is there is deleted once the new one is in place."""
    with suppress(OSError):
        target.rmdir()  # an empty folder
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder as long as its maker lives; tell whether nobody else has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = True
        except OSError:  # it is locked, or the file system knows no locks
            mine = False
        yield mine
    finally:
        os.close(descriptor)


def _delete_leftovers(target: Path) -> None:
    """Delete what makers of the same bundle have left that were killed."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.(tmp|old)")
    for path in target.parent.iterdir():
        if name.fullmatch(path.name) and path.is_dir():
            with _locked(path) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)


def _listed(folder: Path) -> set[str] | None:
    """Return the names of a bundle's files; None if the folder is not one."""
    try:
        index = json.loads((folder / INDEX).read_text())
        return {INDEX, *index["sha256"]} if index["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
