"""The run directory: one per job, found again by its name."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from trainer.job.errors import ConfigError, writing
from trainer.job.files import write_json, write_text

CHECKPOINTS = "checkpoints"  # the folder of them in a run directory
WRITING = "saving-"  # begins the name of a checkpoint that is being written
TRASH = "trash-"  # and this that of one that is being deleted
ASIDE = "bad-"  # and this that of a damaged one
# Whichever of these a job that is killed early has come to write.
MARKS = (CHECKPOINTS, ".hydra", "environment.json", "metrics.jsonl", "summary.json", "run.lock")

SWEEP = "sweep.json"  # tells the folder of a sweep, which holds run directories and is none


def is_run(directory: Path) -> bool:
    """Return whether a folder is a run directory, however little the run has written."""
    return any((directory / mark).exists() for mark in MARKS)


def steps(directory: Path) -> list[int]:
    """Return the steps that have a committed checkpoint in a folder of them, oldest first.

    A checkpoint gets its step for a name when all of it is on the disk. So whatever lies under
    such a name was whole once, and what is wrong with it has happened since.

    Raises:
        OSError: the folder cannot be read. (Where there is none, there are no checkpoints.)
    """
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


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


def choose(root: str, experiment: str, name: str | None, folder: str | None) -> Path:
    """Return the run directory: `folder`, or <root>/<experiment>/<name>.

    Without a name it is named by the time, and by a number behind it if that is taken; and made.

    Args:
        root: run.root.
        experiment: its name.
        name: run.name.
        folder: run.dir.

    Raises:
        ConfigError, SaveError: it cannot be made.
    """
    if folder is not None:
        return expanded(folder, "run.dir").absolute()
    parent = expanded(root, "run.root").absolute() / experiment
    if name is not None:
        return parent / name
    name = time.strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([name], (f"{name}-{taken}" for taken in itertools.count(1)))
    make(parent)
    return next(parent / name for name in names if _is_made(parent / name))


def _is_made(directory: Path) -> bool:
    """Make a directory, unless another start has made it."""
    with writing(directory):
        try:
            directory.mkdir()
        except FileExistsError:
            return False
        return True


def create(directory: Path) -> None:
    """Make the run directory where it is missing.

    Raises:
        ConfigError: a sweep lies there, or it cannot be made or written.
        SaveError: the storage is full, or can only be read.
    """
    make(directory)
    if _has(directory, SWEEP):
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
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def refuse_run(folder: Path) -> None:
    """Refuse a run directory where a sweep is to lie.

    Raises:
        ConfigError: a run lies there, or whether one does cannot be seen.
        SaveError: the storage does not let it be seen.
    """
    if _has(folder, *MARKS):
        raise ConfigError(
            f"-m: {folder} is the run directory of a single run, and holds no sweep",
            "choose another folder with run.name=NAME",
        )


def _has(folder: Path, *names: str) -> bool:
    with writing(folder):
        return any((folder / name).exists() for name in names)


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
