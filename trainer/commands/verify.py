"""`python -m trainer verify RUN`: reads every checkpoint of a run and says which are intact."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trainer.commands import arguments as command_line
from trainer.job import directory as committed
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, DataError, Preempted
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table

DESCRIPTION = """\
Reads every checkpoint of a run and compares every file, and each array read from them, with the
SHA-256 that was saved with it.

Nothing is written, renamed or deleted, and no configuration, data or GPU is needed: it may run at
any time, also while the run goes on or in a folder that cannot be written.
"""
EPILOG = """\
results:
  ok         all files and arrays are, bit for bit, what was saved
  damaged    not so; the table says what is wrong. Starting the run again renames a damaged
             checkpoint to bad-STEP.NUMBER and goes on at the newest intact one; nothing is deleted

exit codes:
  0   there are checkpoints, and all are intact
  65  one is damaged, or there is none
  74  the storage does not let a file be read: nothing is known of it; or the output cannot be
      written
  75  asked to stop
  78  RUN is not a run directory, or an option is wrong

example:
  python -m trainer verify runs/mlp/first
"""


class Checked(NamedTuple):
    """What was found out about one committed checkpoint."""

    step: int
    damage: str | None  # what is wrong with it; None: it is intact
    test_accuracy: float | None  # 0 to 1; None: not known, or the record is damaged
    bytes: int  # of all its files
    saved_at: float  # seconds since 1970


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Verify the checkpoints of a run and print a table, or JSON; return exit code 0.

    Raises:
        ConfigError: an option is wrong, or there is no such run.
        DataError: a checkpoint is damaged, or there is none.
        ReadError: the storage does not let a file be read.
        Preempted: asked to stop.
    """
    args = command_line.parse(_parser(), arguments)
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
        show(to_json(_report(directory, checked, aside, unfinished), indent=2))
    else:
        show("\n".join(_table(checked, aside, unfinished)))
    _judge(directory, checked, aside)
    return EXIT_COMPLETED


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser("verify", DESCRIPTION, EPILOG)
    parser.add_argument(
        "run",
        metavar="RUN",
        type=Path,
        help="the directory of a run, runs/<experiment>/<run.name>, or its checkpoints folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def _checkpoints_of(run: Path) -> Path:
    """Return the folder of checkpoints of a run; it may be missing if the run has none yet.

    Raises:
        ConfigError: there is no such run.
    """
    given = expanded(run, "RUN").resolve()
    looks_like_it = given.name == committed.CHECKPOINTS or any(given.glob("*/_METADATA"))
    if looks_like_it and given.is_dir() and not committed.is_run(given):
        return given
    return command_line.run_directory(run).resolve() / committed.CHECKPOINTS


def _check(directory: Path) -> Iterator[Checked]:
    """Read the committed checkpoints, newest first: that one is the last to be retired."""
    import jax

    # Before orbax asks for the devices: a GPU belongs to the job that trains on it.
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
                continue  # deleted meanwhile by the job that writes it, as it should be
            yield Checked(step, damage, accuracy, size, saved_at)


def _others(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of what was set aside, and of what is half written or half deleted."""
    if not directory.is_dir():
        return [], []
    steps = {str(step) for step in committed.steps(directory)}
    names = {path.name for path in directory.iterdir() if path.is_dir()} - steps
    aside = {name for name in names if name.startswith(committed.ASIDE)}
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
        yield f"found damaged and set aside before (delete at will): {', '.join(aside)}"
    if unfinished:
        yield f"half written or half deleted (not used, no harm): {', '.join(unfinished)}"


def _report(
    directory: Path, checked: list[Checked], aside: list[str], unfinished: list[str]
) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "checkpoints": [{"ok": one.damage is None, **one._asdict()} for one in checked],
        "set_aside": aside,
        "unfinished": unfinished,
    }


def _judge(directory: Path, checked: list[Checked], aside: list[str]) -> None:
    """Raise DataError unless there are checkpoints and all are intact."""
    if not checked and aside:
        raise DataError(
            f"{directory} has only checkpoints found damaged before: put an intact copy back or "
            "begin another run"
        )
    if not checked:
        raise DataError(
            f"{directory} has no checkpoint: a run started there begins at step 0; "
            "if it should have one, look for the directory it was saved to (run.dir, run.name)"
        )
    intact = [one.step for one in checked if one.damage is None]
    if len(intact) == len(checked):
        return
    told = f"{directory}: {len(checked) - len(intact)} of {len(checked)} checkpoints damaged"
    if not intact:
        raise DataError(f"{told}, none intact: put an intact copy back or begin another run")
    raise DataError(f"{told}: starting the run again goes on after step {intact[-1]}")
