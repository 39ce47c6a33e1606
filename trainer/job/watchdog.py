"""End a process that hangs, after writing down where it hangs."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from trainer.job.errors import EXIT_RETRY
from trainer.job.exit import hard_exit


class Activity(Protocol):
    """What the watchdog watches: see tracking.goodput.PhaseTimer."""

    now: str  # the phase that the process is in
    seen_alive: float  # time.monotonic() of the last sign of life

    def alive(self) -> None:
        """Note a sign of life."""


class Watchdog:
    """A context manager that ends the process when no phase begins or ends for some time.

    It runs in a thread: the main thread of a hung process is inside a collective or waits for a
    file, and cannot act.
    """

    def __init__(
        self, seconds: float, activity: Activity, stacks: Path, on_hang: Callable[[str], None]
    ) -> None:
        """Configure the watchdog; it watches inside the block.

        After `seconds` without a sign of life, it writes the stacks of all threads to the file
        `stacks`, calls `on_hang` with a message, and exits with code 75.
        """
        self._seconds = seconds
        self._activity = activity
        self._stacks = stacks
        self._on_hang = on_hang
        self._interval = min(1.0, seconds / 4)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._activity.alive()
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
                self._activity.alive()  # the whole process was suspended: it did not hang
            elif looked - self._activity.seen_alive > self._seconds:
                hard_exit(EXIT_RETRY, self._report)

    def _report(self) -> None:
        """Report where the process hangs: standard error first, the run directory may hang too."""
        stacks = _stacks()
        with suppress(OSError):
            sys.stderr.write(stacks)
            sys.stderr.flush()
        writing = threading.Thread(target=self._stacks.write_text, args=[stacks], daemon=True)
        writing.start()
        writing.join(1.0)
        self._on_hang(
            f"no step was completed for {self._seconds:g} s (cluster.hang_timeout_seconds), last "
            f"in phase {self._activity.now}: the stacks are above, and in {self._stacks}"
        )
        # The other processes hang as well. Let them report before they lose this one.
        time.sleep(2 * self._interval)


def _stacks() -> str:
    """Return the stacks of all threads.

    Through a file in memory: faulthandler stops all threads while it writes, and a pipe may block.
    """
    with os.fdopen(os.memfd_create("stacks"), "w+b") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
