"""Ends a process that hangs, after writing down where."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainer.job.errors import EXIT_RETRY
from trainer.job.exit import hard_exit
from trainer.tracking.goodput import PhaseTimer


class Watchdog:
    """Ends the process if it neither begins nor ends a phase for some time; a context manager.

    A thread of its own does it: the main thread of a hung process is inside a collective, or waits
    for a file.
    """

    def __init__(
        self, seconds: float, timer: PhaseTimer, stacks: Path, on_hang: Callable[[str], None]
    ) -> None:
        """Describe the watch; it begins with the block.

        Args:
            seconds: without a sign of life, until the process counts as hung.
            timer: of the phases.
            stacks: file for the stacks of all threads.
            on_hang: told what happened, just before the process ends with code 75.
        """
        self._seconds = seconds
        self._timer = timer
        self._stacks = stacks
        self._on_hang = on_hang
        self._interval = min(1.0, seconds / 4)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._timer.alive()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._ended.wait(self._interval):
            before, looked = looked, time.monotonic()
            if looked - before > self._interval + self._seconds / 2:
                self._timer.alive()  # the whole process was suspended: it did not hang
            elif looked - self._timer.seen_alive > self._seconds:
                hard_exit(EXIT_RETRY, self._tell)

    def _tell(self) -> None:
        """Say where it hangs: the run directory comes last, for that may be what hangs."""
        stacks = _stacks()
        with suppress(OSError):
            sys.stderr.write(stacks)
            sys.stderr.flush()
        writing = threading.Thread(target=self._stacks.write_text, args=[stacks], daemon=True)
        writing.start()
        writing.join(1.0)
        self._on_hang(
            f"no step was completed for {self._seconds:g} s (cluster.hang_timeout_seconds), last "
            f"in phase {self._timer.now}: the stacks are above, and in {self._stacks}"
        )
        time.sleep(2 * self._interval)  # for the others to tell theirs, before they lose this one


def _stacks() -> str:
    """Return the stacks of all threads; through memory, since writing them holds all threads up."""
    with os.fdopen(os.memfd_create("stacks"), "w+b") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
