"""A folder of files that appears as a whole or not at all, and replaces only an earlier one."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from trainer.job.errors import ConfigError, writing
from trainer.job.files import write_json

INDEX = "model.json"  # describes the export and lists the other files with their SHA-256
FORMAT = "trainer-export"
CACHE = "__pycache__"  # Python makes it where somebody imports predict.py


def check_target(target: Path, *, replace: bool) -> None:
    """Check that an export may be written to a folder: a new one, or with `replace` an export.

    Raises:
        ConfigError: it holds other files, or an export that must not be replaced.
    """
    hint = "name a folder that does not exist yet"
    with writing(target, hint):
        names = {path.name for path in target.iterdir()} if target.exists() else set()
    try:
        index = json.loads((target / INDEX).read_text())
        ours = {INDEX, CACHE, *index["sha256"]} if index["format"] == FORMAT else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if others := sorted(names - ours):
        message = f"DIR={target} holds files that are not from an export: {others[0]}"
        raise ConfigError(message, hint)
    if names and not replace:
        raise ConfigError(f"DIR={target} holds an export", f"add --replace, or {hint}")


@contextmanager
def replacing(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield a temporary folder, and rename it to `target` when the block ends without an error.

    Raises:
        ConfigError: as in check_target, or the folder cannot be written. The old one stays.
        SaveError: its storage is full or broken. The old one stays.
    """
    target = target.resolve()
    with writing(target, "name another folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))  # same file system
        new = scratch / "new"
        try:
            new.mkdir()
            yield new
            check_target(target, replace=replace)  # again: the work has taken a while
            if target.exists():
                target.rename(scratch / "old")
            new.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def write_index(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Write the index: a description, and the SHA-256 of all other files by name; return these."""
    files = sorted(path for path in folder.iterdir() if path.name != INDEX)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    write_json(folder / INDEX, {"format": FORMAT, **description, "sha256": digests})
    return digests
