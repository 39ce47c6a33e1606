"""The image's health check: does the run that is open in this container move?

Ends with 1 when the process that writes the run directory has counted no step for
TRAINER_HEALTH_SECONDS. Ends with 0 when it has, and where there is nothing to watch: while the
trainer starts, for its other commands, and in the other processes of a run.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

SECONDS = float(os.environ.get("TRAINER_HEALTH_SECONDS", "300"))


def open_runs() -> set[Path]:
    """Return the run directories whose lock a process of this container holds open."""
    held = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = link.readlink()
        except OSError:  # it has ended, or it is not ours to look into
            continue
        if target.name == "run.lock":
            held.add(target.parent)
    return held


def idle_seconds(run: Path) -> float:
    """Return for how long a run has not moved; its account of seconds follows the steps."""
    times = [(run / "run.lock").stat().st_mtime]
    if (run / "goodput.json").exists():
        times.append((run / "goodput.json").stat().st_mtime)
    return time.time() - max(times)


def main() -> int:
    """Tell the state of every open run and return the exit code."""
    stuck = False
    for run in open_runs():
        idle = idle_seconds(run)
        stuck |= idle > SECONDS
        print(f"{run}: last moved {idle:.0f} s ago (TRAINER_HEALTH_SECONDS={SECONDS:g})")
    return int(stuck)


if __name__ == "__main__":
    sys.exit(main())
