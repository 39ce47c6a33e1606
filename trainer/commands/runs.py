"""`python -m trainer runs [DIR]`: a table of runs, newest first."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.commands import arguments as command_line
from trainer.job import directory as run_layout
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tracking import runs

DESCRIPTION = """\
Lists the runs at and below a folder, newest first: how they ended, their results on the
validation and the test split, their speed, and which of them can be resumed. It only reads, also
while jobs are running.
"""
EPILOG = """\
status:
  running    a job uses the run directory now
  completed  all its epochs are done
  preempted  it was asked to stop and has saved a checkpoint: the same command resumes it
  failed     it ended with an error, which is shown
  unknown    it ended without saying how (killed, power cut), or its files are damaged

resumable:
  the step that the same command would resume from, if the run has work left and a checkpoint, and
  no job is running it. `python -m trainer verify RUN` checks whether a checkpoint is intact.

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
HEADER = ("run", "status", "validation", "test", "examples/s", "steps", "age", "resumable", "")
LEFT = (0, 1, 8)  # columns of text; the others are figures
NOTE_WIDTH = 64  # JSON has all of a note
_MAX_DEPTH = 8  # of folders below the one that is searched


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Print the runs of a folder as a table, or as JSON; return exit code 0.

    Raises:
        ConfigError: an option is wrong, or there is no such folder.
        Preempted: asked to stop.
    """
    parser = command_line.parser("runs", DESCRIPTION, EPILOG)
    default = Path(os.environ.get("TRAINER_RUN_ROOT") or "runs")
    help_ = "the folder to search, or one run (default: TRAINER_RUN_ROOT if set, or runs)"
    add = parser.add_argument
    add("directory", metavar="DIR", type=Path, nargs="?", default=default, help=help_)
    add("--json", action="store_true", help="print JSON instead of a table")
    args = command_line.parse(parser, arguments)
    root = expanded(args.directory, "DIR").absolute()
    if not root.is_dir():
        hint = "name the folder of your runs: run.root, which is TRAINER_RUN_ROOT, or else runs"
        raise ConfigError(f"DIR={args.directory} is not a folder", hint)
    infos = []
    for directory in find(root):
        infos.append(runs.describe(directory))
        stop.check("before all runs were read")
    infos.sort(key=lambda run: (-(run.updated or 0.0), run.directory))
    if args.json:
        listed = [{**run._asdict(), "directory": str(run.directory)} for run in infos]
        show(to_json({"directory": str(root), "runs": listed}, indent=2))
    elif infos:
        show("\n".join(table([HEADER, *(_row(run, root, time.time()) for run in infos)], LEFT)))
    else:
        print(f"no runs in {args.directory}", file=sys.stderr)
    return EXIT_COMPLETED


def find(root: Path) -> Iterator[Path]:
    """Yield the run directories at or below a folder, each once; links to folders are followed."""
    seen: set[Path] = set()
    starts = [root]
    for start in starts:  # links come last: a run is called by its own name if it has one here
        for path, folders, files in os.walk(start):
            directory = Path(path)
            if directory.resolve() in seen:
                folders.clear()
                continue
            seen.add(directory.resolve())
            if any(mark in folders or mark in files for mark in run_layout.MARKS):
                yield directory
                # With run.dir=DIR, a folder of runs may be a run, too.
                folders[:] = [name for name in folders if name not in run_layout.OWN]
            if len(directory.relative_to(root).parts) == _MAX_DEPTH:
                folders.clear()
            folders.sort()
            starts += [link for name in folders if (link := directory / name).is_symlink()]


def _row(run: runs.RunInfo, root: Path, now: float) -> tuple[str, ...]:
    name = str(run.directory.relative_to(root)) if run.directory != root else root.name
    resume_at = f"step {run.newest_checkpoint:,}" if run.resumable else "no"
    note = printable(run.note or "") if run.status != "preempted" else ""
    return (
        printable(name),
        run.status,
        runs.score_text(run.best, run.score),
        runs.score_text(run.best, run.test_score),
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
