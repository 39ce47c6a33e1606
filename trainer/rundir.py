"""The run directory: one per job, found again by its name."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from trainer.atomic import write_json, write_text
from trainer.config import RunConfig
from trainer.errors import ConfigError


def choose(run: RunConfig, experiment: str) -> Path:
    """Return where the run lies: run.dir, or <run.root>/<experiment>/<run.name>.

    Without a name it is named by the time, and by a number behind it if that is taken.
    """
    if run.dir is not None:
        return Path(run.dir).expanduser().absolute()
    parent = Path(run.root).expanduser().absolute() / experiment
    if run.name is not None:
        return parent / run.name
    name = time.strftime("%Y%m%d-%H%M%S")
    taken = 0
    while (parent / (name if not taken else f"{name}-{taken}")).exists():
        taken += 1
    return parent / (name if not taken else f"{name}-{taken}")


def create(directory: Path) -> None:
    """Make the run directory where it is missing.

    Raises:
        ConfigError: it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(None, "no permission to write")
    except OSError as error:
        raise ConfigError(
            f"run.dir={directory}: cannot be written ({error.strerror}): "
            "choose another with run.dir=DIR or run.root=DIR"
        ) from None


def describe(directory: Path, record: Mapping[str, str], environment: Mapping[str, object]) -> None:
    """Keep the configuration in .hydra/ and what the run stands on in environment.json.

    Args:
        directory: the run directory.
        record: file name -> contents, for .hydra/.
        environment: JSON.
    """
    (directory / ".hydra").mkdir(exist_ok=True)
    for name, text in record.items():
        write_text(directory / ".hydra" / name, text)
    write_json(directory / "environment.json", environment)
