"""Waits for whole sweeps, and reads what they leave."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of sweep.csv."""
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summary(run: Path) -> dict:
    """Return summary.json of a trial."""
    return json.loads((run / "summary.json").read_text())


def wait_for(
    condition: Callable[[], object],
    process: subprocess.Popen[str] | None = None,
    seconds: float = 240,
) -> None:
    """Wait until a condition holds; fail if the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.005)
