"""`python -m trainer selftest`: proves on this machine that an interrupted run ends as an unbroken.

A short job runs to its end; then it runs again in another directory, is ended at random instants
and started again each time. Both have to end with the same bits and the same log.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, EXIT_INTERNAL, ConfigError, TrainerError
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.selftest import inspect
from trainer.selftest import options as selftest_options
from trainer.selftest.interruption import Proof
from trainer.selftest.report import report, rows
from trainer.tracking.terminal import Terminal


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Prove exact resume as the arguments say; return the exit code: 0 proven, 70 not equal.

    Raises:
        ConfigError: an option is wrong.
        TrainerError: the job fails by itself, with its code.
        Preempted: asked to stop; the children are ended.
    """
    args = command_line.parse(selftest_options.parser(), arguments)
    if args is None:
        return EXIT_COMPLETED
    options = selftest_options.read(args)
    folder = _folder(args.dir)
    terminal = Terminal()
    began = time.monotonic()
    proof = Proof(options, folder, stop, terminal)
    problems: list[str] = []
    kept, program = True, inspect.program()
    try:
        terminal.note(f"unbroken run on {options.reference} in {folder}")
        unbroken = proof.unbroken()
        terminal.note(f"unbroken run: {time.monotonic() - began:.1f} s")
        expected = inspect.summary(unbroken)["weights_sha256"]
        got = None
        while not problems and (not proof.tally.chains or proof.tally.interruptions < args.kills):
            broken = proof.chain()
            got = inspect.summary(broken).get("weights_sha256")
            if inspect.program() != program:
                raise TrainerError(
                    "the trainer's own files were changed during the proof, so it proves nothing: "
                    "start it again, from a copy that nobody changes"
                )
            found = inspect.differences(unbroken, broken)
            problems = [f"{broken.name}: {line}" for line in found]
            verdict = "NOT equal" if problems else "equal"
            terminal.note(f"{broken.name} is completed and {verdict}")
        if not problems:
            terminal.work(broken.name, args.kills, args.kills, "")
        terminal.close()
        kept = bool(args.keep or problems)
        seconds = time.monotonic() - began
        told = folder if kept else None
        result = report(proof.tally, expected, got, problems, seconds, told)
        if args.json:
            show(to_json(result, indent=2))
        else:
            Terminal(sys.stdout).summary(rows(result))
    except TrainerError as error:
        logs = f"{error}\nthe runs and what they printed are kept in {folder}"
        error.args = (logs,)
        raise
    finally:
        terminal.close()
        if not kept:
            _clear(folder, whole=args.dir is None)
    return EXIT_INTERNAL if problems else EXIT_COMPLETED


def _folder(given: str | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="trainer-selftest-"))
    folder = expanded(given, "--dir").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"--dir {given}: is not empty: give an empty or a new folder")
    except OSError as error:
        raise ConfigError(f"--dir {given}: cannot be used ({error.strerror})") from None
    return folder


def _clear(folder: Path, whole: bool) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True)
    if whole:
        folder.rmdir()
