"""`python -m trainer verify RUN`: read every checkpoint of a run and report which are intact."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.commands import arguments as command_line
from trainer.job import directory as run_directory
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, DataError, Preempted
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table

DESCRIPTION = """\
Reads every checkpoint of a run and compares every file, and every array in them, with the SHA-256
that was saved with it.

Nothing is written, renamed or deleted, and no configuration, data or GPU is needed: it may run at
any time, also during training or on a read-only folder.
"""
EPILOG = """\
results:
  ok         all files and arrays are, bit for bit, what was saved
  damaged    they are not; the table says what is wrong. Starting the run again renames a damaged
             one to bad-STEP.NUMBER and resumes from the newest intact one; nothing is deleted

exit codes:
  0   there are checkpoints, and all are intact
  65  one is damaged, or there is none
  74  the storage does not let a file be read, so its state is unknown; or the output cannot be
      written
  75  asked to stop
  78  RUN is not a run directory, or an option is wrong

example:
  python -m trainer verify runs/mlp/first
"""


class Checked(NamedTuple):
    """The result for one committed checkpoint."""

    step: int
    damage: str | None  # what is wrong; None: the checkpoint is intact
    test_accuracy: float | None  # 0 to 1; None: not measured, or the record is damaged
    bytes: int  # of all its files
    saved_at: float  # seconds since 1970


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Verify the checkpoints of a run and print a table, or JSON; return exit code 0.

    Raises:
        TrainerError: with the exit codes that --help lists.
    """
    parser = command_line.parser("verify", DESCRIPTION, EPILOG)
    parser.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        help="the directory of a run, runs/<experiment>/<run.name>, or its checkpoints folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = command_line.parse(parser, arguments)
    if args is None:
        return EXIT_COMPLETED
    directory = _checkpoints_of(args.run)
    checked = []
    for one in _check(directory):
        checked.append(one)
        if stop():
            raise Preempted("asked to stop before all checkpoints were verified")
    checked.sort()
    aside, unfinished = _others(directory)
    if args.json:
        checkpoints = [{"ok": one.damage is None, **one._asdict()} for one in checked]
        report = {"directory": str(directory), "checkpoints": checkpoints}
        show(to_json({**report, "set_aside": aside, "unfinished": unfinished}, indent=2))
    else:
        show("\n".join(_table(checked, aside, unfinished)))
    _raise_unless_intact(directory, checked)
    return EXIT_COMPLETED


def _checkpoints_of(run: Path) -> Path:
    """Return the folder of checkpoints of a run; a run without checkpoints has none yet.

    Raises:
        ConfigError: there is no such run.
    """
    given = expanded(run, "RUN").resolve()
    if given.name == run_directory.CHECKPOINTS and given.is_dir():
        return given
    return command_line.run_directory(run).resolve() / run_directory.CHECKPOINTS


def _check(directory: Path) -> Iterator[Checked]:
    """Read the committed checkpoints, newest first, because the oldest may be deleted any time."""
    import jax

    # Before orbax asks for the devices: the GPU belongs to the job that trains on it.
    jax.config.update("jax_platforms", "cpu")
    from trainer.checkpoint import files
    from trainer.checkpoint.checksums import Damaged

    with files.checkpointer() as reader:
        for step in reversed(files.steps(directory)):
            folder = directory / str(step)
            damage, accuracy = None, None
            try:
                _, record = files.read(reader, folder)
                accuracy = record.get("test_accuracy")
            except Damaged as error:
                damage = str(error)
            try:
                saved_at = folder.stat().st_mtime  # nothing is added to it afterwards
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            except FileNotFoundError:
                continue  # the job that writes here has deleted it, as it should
            yield Checked(step, damage, accuracy, size, saved_at)


def _others(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of damaged checkpoints that were renamed, and of half-written ones."""
    if not directory.is_dir():
        return [], []
    steps = {str(step) for step in run_directory.steps(directory)}
    names = {path.name for path in directory.iterdir() if path.is_dir()} - steps
    aside = {name for name in names if name.startswith(run_directory.ASIDE)}
    return sorted(aside), sorted(names - aside)


def _table(checked: list[Checked], aside: list[str], unfinished: list[str]) -> Iterator[str]:
    rows = [("step", "result", "test accuracy", "MB", "saved at", "")]
    for one in checked:
        accuracy = "-" if one.test_accuracy is None else f"{one.test_accuracy:.2%}"
        saved_at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.saved_at))
        result = "damaged" if one.damage else "ok"
        size = f"{one.bytes / 1e6:.2f}"
        rows.append((str(one.step), result, accuracy, size, saved_at, one.damage or ""))
    if checked:
        yield from table(rows, left=(1, 4, 5))
    if aside:
        yield f"damaged, renamed by an earlier start (safe to delete): {', '.join(aside)}"
    if unfinished:
        yield f"half written or half deleted (not used): {', '.join(unfinished)}"


def _raise_unless_intact(directory: Path, checked: list[Checked]) -> None:
    """Raise DataError unless there are checkpoints and all are intact."""
    if not checked:
        raise DataError(
            f"{directory} has no checkpoint",
            "a run started there begins at step 0; if it should have one, put an intact copy back, "
            "or look for the directory it was saved to (run.dir, run.name)",
        )
    intact = [one.step for one in checked if one.damage is None]
    if len(intact) == len(checked):
        return
    message = f"{directory}: {len(checked) - len(intact)} of {len(checked)} checkpoints damaged"
    if not intact:
        raise DataError(f"{message}, none intact", "put an intact copy back or start another run")
    raise DataError(f"{message}: starting the run again resumes from step {intact[-1]}")
