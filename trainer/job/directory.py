"""The run directory: one per job, identified by its name; the names of the files in it."""

import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from trainer.job.errors import ConfigError, writing
from trainer.job.files import write_json, write_text

CHECKPOINTS = "checkpoints"  # the folder of the checkpoints in a run directory
WRITING = "saving-"  # prefix of a checkpoint that is being written
TRASH = "trash-"  # prefix of a checkpoint that is being deleted
ASIDE = "bad-"  # prefix of a damaged checkpoint
SWEEP = "sweep.json"  # marks the folder of a sweep, which has run directories in it
OWN = (CHECKPOINTS, ".hydra", "tensorboard", "evaluation")  # the folders in a run directory
# A job that is killed early has written at least one of these.
MARKS = (CHECKPOINTS, ".hydra", "environment.json", "metrics.jsonl", "summary.json", "run.lock")


def is_run(directory: Path) -> bool:
    """Return whether a folder is a run directory, however little the run has written."""
    return any((directory / mark).exists() for mark in MARKS)


def steps(directory: Path) -> list[int]:
    """Return the steps of the committed checkpoints in a folder, oldest first; [] if it is missing.

    A checkpoint is renamed to its step once all of it is on disk. So a folder with such a name was
    complete at that time, and whatever is wrong with it has happened since.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        names = [path.name for path in directory.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def expanded(path: Path | str, option: str) -> Path:
    """Return the path with ~ replaced by the home directory; without one, ConfigError."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        message = f"{option}={path}: there is no such home directory"
        raise ConfigError(message, "write the folder out, or set HOME") from None


def not_own(folder: Path) -> str:
    """Return why others could change what is in a folder; nothing if they cannot."""
    status = folder.stat()
    if status.st_uid != os.geteuid():
        return f"belongs to another user (uid {status.st_uid})"
    return "can be written by others" if status.st_mode & 0o022 else ""


def existing(given: Path | str, option: str = "RUN") -> Path:
    """Return the run directory that an option names, absolute.

    Raises:
        ConfigError: it is not a run directory, or does not exist.
    """
    directory = expanded(given, option).absolute()
    try:
        if is_run(directory):
            return directory
        why = "is not a run directory" if directory.exists() else "does not exist"
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    raise ConfigError(
        f"{option}={given} {why}",
        "give the directory of a run, such as runs/mlp/NAME (`python -m trainer runs` lists them)",
    )


def choose(root: str, experiment: str, name: str | None, folder: str | None) -> Path:
    """Return the run directory: `folder` (run.dir), or <run.root>/<experiment>/<run.name>.

    Without a name, it is named after the time, with a number where that name is taken, and made.
    """
    if folder is not None:
        return expanded(folder, "run.dir").absolute()
    parent = expanded(root, "run.root").absolute() / experiment
    if name is not None:
        return parent / name
    make(parent)
    now, number = time.strftime("%Y%m%d-%H%M%S"), 0
    directory = parent / now
    while True:
        with writing(parent), suppress(FileExistsError):  # another job has made it
            directory.mkdir()
            return directory
        number += 1
        directory = parent / f"{now}-{number}"


def create(directory: Path) -> None:
    """Make the run directory if it is missing; errors as in `make`, or ConfigError for a sweep."""
    make(directory)
    if (directory / SWEEP).exists():
        message = f"{directory} is the folder of a sweep, not a run directory"
        raise ConfigError(message, "choose another with run.name=NAME")


def make(folder: Path) -> None:
    """Make a folder and its parents if they are missing; raises as `writing` does."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def describe(directory: Path, record: Mapping[str, str], environment: Mapping[str, object]) -> None:
    """Write the configuration (file name -> text) to .hydra/, and environment.json."""
    for name, text in record.items():
        path = directory / ".hydra" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    write_json(directory / "environment.json", environment)
