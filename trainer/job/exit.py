"""Exit immediately where an orderly exit might wait for ever; end a process that hangs."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Protocol

from trainer.job.errors import EXIT_RETRY

MESSAGE_SECONDS = 5.0  # a file system that hangs does not keep the process from exiting


def hard_exit(code: int, write_message: Callable[[], None] = lambda: None) -> NoReturn:
    """Exit immediately with `code`; try for 5 s to write a final message."""

    def write() -> None:
        write_message()
        sys.stdout.flush()
        sys.stderr.flush()

    try:
        thread = threading.Thread(target=write, name="final message", daemon=True)
        thread.start()
        thread.join(MESSAGE_SECONDS)
    finally:
        os._exit(code)


def hard_exit_later(seconds: float, code: int) -> None:
    """Exit with `code` in some seconds, unless the process has ended by itself before."""
    _start_timer(seconds, lambda: hard_exit(code))


@contextmanager
def time_limit(seconds: float, on_timeout: Callable[[], object]) -> Iterator[None]:
    """Call `on_timeout` in another thread if the block takes longer: nothing can interrupt it."""
    timer = _start_timer(seconds, on_timeout)
    try:
        yield
    finally:
        timer.cancel()


def _start_timer(seconds: float, action: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


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
        # First into memory: faulthandler stops all threads while it writes, and a pipe may block.
        with os.fdopen(os.memfd_create("stacks"), "w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            stacks = file.read()
        with suppress(OSError):
            sys.stderr.write(stacks)
            sys.stderr.flush()
        self._on_hang(
            f"no step was completed for {self._seconds:g} s (cluster.hang_timeout_seconds), last "
            f"in phase {self._activity.now}: the stacks are above, and in {self._stacks}"
        )
        with suppress(OSError):
            self._stacks.write_text(stacks)
        # The other processes hang as well. Let them report before they lose this one.
        time.sleep(2 * self._interval)
