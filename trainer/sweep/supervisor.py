"""A child process that trains one member of a sweep and does not outlive the sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.job import processes
from trainer.job.errors import (
    EXIT_CONFIG,
    EXIT_DATA,
    EXIT_INTERNAL,
    EXIT_RETRY,
    EXIT_SAVE,
    EXIT_UNAVAILABLE,
)
from trainer.job.signals import StopRequest

_POLL_SECONDS = 0.02
_LOOK_SECONDS = 0.5
_CODES = (EXIT_DATA, EXIT_UNAVAILABLE, EXIT_INTERNAL, EXIT_SAVE, EXIT_RETRY, EXIT_CONFIG)


def train(
    arguments: Sequence[str], output: Path, stop: StopRequest, look: Callable[[str], object]
) -> tuple[int, str | None]:
    """Run `python -m trainer` to its end; return its exit code, and its error if it told one.

    When this process is asked to stop, the child is asked as well: it saves and ends with 75. When
    this process dies, the kernel kills the child: what it saved last is there.

    Args:
        arguments: of the command line.
        output: a file; what the child prints is added to it.
        stop: whether somebody asked this process to stop.
        look: called now and then with the last line that the child has printed.

    Raises:
        OSError: the file cannot be written, or no process started.
    """
    with output.open("ab") as log:
        begin = log.tell()
        child = processes.start(
            [sys.executable, "-m", "trainer", *arguments], stdout=log, stderr=subprocess.STDOUT
        )
    asked, next_look = False, 0.0
    try:
        while child.poll() is None:
            if stop() and not asked:
                child.send_signal(signal.SIGTERM)
                asked = True
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _LOOK_SECONDS
                lines = _lines(output, begin)
                look(lines[-1] if lines else "starting")
            time.sleep(_POLL_SECONDS)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    return _ending(child.returncode, _lines(output, begin), asked)


def _ending(code: int, lines: Sequence[str], asked: bool) -> tuple[int, str | None]:
    if code == 0:
        return code, None
    if asked and code == -signal.SIGTERM:  # before it listened to signals
        return EXIT_RETRY, "ended before it began"
    if code < 0:
        return EXIT_INTERNAL, f"ended by {signal.Signals(-code).name}"
    label = "error: "
    told = [line.removeprefix(label) for line in lines if line.startswith(label)]
    known = code if code in _CODES else EXIT_INTERNAL  # else Python's own, of a traceback
    return known, (told or lines or [f"ended with code {code}"])[-1]


def _lines(output: Path, begin: int) -> list[str]:
    """Return the last lines of this start's output."""
    with output.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 8192))
        text = file.read().decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
