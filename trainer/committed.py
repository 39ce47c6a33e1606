"""What tells a run directory and its finished checkpoints, without reading any of them."""

from __future__ import annotations

import re
from pathlib import Path

COMMIT_FILE = "commit_success.txt"  # orbax writes it last
CHECKPOINTS = "checkpoints"  # the folder of them in a run directory
# Whichever of these a job that is killed early has come to write.
MARKS = (CHECKPOINTS, ".hydra", "environment.json", "metrics.jsonl", "summary.json", "run.lock")


def is_run(directory: Path) -> bool:
    """Return whether a folder is a run directory, however little the run has written."""
    return any((directory / mark).exists() for mark in MARKS)


def steps(directory: Path) -> list[int]:
    """Return the steps that have a committed checkpoint in a folder of them, oldest first."""
    names = [path.parent.name for path in directory.glob(f"*/{COMMIT_FILE}")]
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))
