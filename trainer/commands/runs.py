"""`python -m trainer runs [DIR]`: a table of runs, newest first."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError, Preempted
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tracking import runs
from trainer.tracking.runs import RunInfo

DESCRIPTION = """\
Lists the runs at and below a folder, newest first: how they ended, how good and how fast they are,
and which of them can go on. It only reads, also while jobs are running.
"""
EPILOG = """\
status:
  running    a job holds the run directory now
  completed  all its epochs are done
  preempted  it was asked to stop and has saved: the same command goes on from there
  failed     it ended with an error, which is shown
  unknown    it ended without saying how (killed, power cut), or its files are damaged

resumable:
  the step that the same command would go on from, if the run has work left, a checkpoint to go on
  from, and no job at it. `python -m trainer verify RUN` checks whether a checkpoint is intact.

exit codes:
  0   the table is printed, even if it is empty
  74  the output cannot be written
  75  asked to stop
  78  DIR does not exist, or an option is wrong

examples:
  python -m trainer runs
  python -m trainer runs runs/mlp
  python -m trainer runs --json | jq '.runs[] | select(.resumable) | .directory'
"""
HEADER = ("run", "status", "accuracy", "images/s", "steps", "age", "resumable", "")
LEFT = (0, 1, 7)  # columns of text; the others are figures
NOTE_WIDTH = 64  # JSON has all of a note


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Print the runs of a folder as a table, or as JSON; return exit code 0.

    Raises:
        ConfigError: an option is wrong, or there is no such folder.
        Preempted: asked to stop.
    """
    parser = command_line.parser("runs", DESCRIPTION, EPILOG)
    parser.add_argument(
        "directory",
        metavar="DIR",
        type=Path,
        nargs="?",
        default=Path(os.environ.get("TRAINER_RUN_ROOT") or "runs"),
        help="the folder to search, or one run (default: that in TRAINER_RUN_ROOT, or else runs)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = command_line.parse(parser, arguments)
    if args is None:
        return EXIT_COMPLETED
    root = expanded(args.directory, "DIR").absolute()
    if not root.is_dir():
        raise ConfigError(
            f"DIR={args.directory} is not a folder: give the one that your runs lie in (run.root, "
            "which is TRAINER_RUN_ROOT or runs unless you have changed it)"
        )
    found = []
    for directory in runs.find(root):
        found.append(runs.describe(directory))
        if stop():
            raise Preempted("asked to stop before all runs were read")
    found.sort(key=lambda run: (-(run.updated or 0.0), run.directory))
    if args.json:
        show(to_json({"directory": str(root), "runs": [_json(run) for run in found]}, indent=2))
    elif found:
        now = time.time()
        show("\n".join(table([HEADER, *(_row(run, root, now) for run in found)], LEFT)))
    else:
        print(f"no runs in {args.directory}", file=sys.stderr)
    return EXIT_COMPLETED


def _json(run: RunInfo) -> dict[str, Any]:
    return {**run._asdict(), "directory": str(run.directory)}


def _row(run: RunInfo, root: Path, now: float) -> tuple[str, ...]:
    name = str(run.directory.relative_to(root)) if run.directory != root else root.name
    resume_at = f"step {run.newest_checkpoint:,}" if run.resumable else "no"
    note = printable(run.note or "") if run.status != "preempted" else ""
    return (
        printable(name),
        run.status,
        "-" if run.test_accuracy is None else f"{run.test_accuracy:.2%}",
        "-" if run.examples_per_second is None else f"{run.examples_per_second:,.0f}",
        "-" if run.steps is None else f"{run.steps:,}",
        "-" if run.updated is None else _age(now - run.updated),
        resume_at,
        note if len(note) <= NOTE_WIDTH else f"{note[: NOTE_WIDTH - 3]}...",
    )


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
