"""Folders as people write them."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import ConfigError


def expanded(path: Path | str, option: str) -> Path:
    """Return a path with the home directory in the place of ~.

    Args:
        path: as it was given.
        option: that gave it, for the error.

    Raises:
        ConfigError: nobody knows that home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{option}={path}: there is no such home directory",
            "write the folder out, or set HOME",
        ) from None
