"""The run directory: one per job, found again by its name."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path

from trainer import committed
from trainer.atomic import write_json, write_text
from trainer.config import RunConfig
from trainer.errors import ConfigError, unwritable
from trainer.paths import expanded


def choose(run: RunConfig, experiment: str) -> Path:
    """Return where the run lies: run.dir, or <run.root>/<experiment>/<run.name>.

    Without a name it is named by the time, and by a number behind it if that is taken; and made.

    Raises:
        ConfigError, SaveError: it cannot be made.
    """
    if run.dir is not None:
        return expanded(run.dir, "run.dir").absolute()
    parent = expanded(run.root, "run.root").absolute() / experiment
    if run.name is not None:
        return parent / run.name
    name = time.strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([name], (f"{name}-{taken}" for taken in itertools.count(1)))
    make(parent)
    return next(parent / name for name in names if _is_made(parent / name))


def _is_made(directory: Path) -> bool:
    """Make a directory, unless another start has it."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise unwritable(directory, error) from None
    return True


def create(directory: Path) -> None:
    """Make the run directory where it is missing.

    Raises:
        ConfigError: a sweep lies there, or it cannot be made or written.
        SaveError: the storage is full, or can only be read.
    """
    make(directory)
    if _has(directory, committed.SWEEP):
        raise ConfigError(
            f"{directory} is the folder of a sweep, and holds no run of its own",
            "choose another with run.name=NAME",
        )


def make(folder: Path) -> None:
    """Make a folder for runs where it is missing.

    Raises:
        ConfigError: it cannot be made or written.
        SaveError: the storage is full, or can only be read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None


def refuse_run(folder: Path) -> None:
    """Refuse a run directory where a sweep is to lie.

    Raises:
        ConfigError: a run lies there, or whether one does cannot be seen.
        SaveError: the storage does not let it be seen.
    """
    if _has(folder, *committed.MARKS):
        raise ConfigError(
            f"-m: {folder} is the run directory of a single run, and holds no sweep",
            "choose another folder with run.name=NAME",
        )


def _has(folder: Path, *names: str) -> bool:
    try:
        return any((folder / name).exists() for name in names)
    except OSError as error:
        raise unwritable(folder, error) from None


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
