"""What tells a run directory and its finished checkpoints, without reading any of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

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
