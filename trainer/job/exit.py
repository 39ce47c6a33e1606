"""Exit immediately where an orderly exit might wait for ever; end a process that hangs."""

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
        os._exit(code)  # sys.exit() would run jax's exit handler, which waits for other processes


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


@contextmanager
def watchdog(
    seconds: float, activity: Activity, stacks: Path, on_hang: Callable[[str], None]
) -> Iterator[None]:
    """End the process with code 75 if the block shows no sign of life for some seconds.

    Before that, write the stacks of all threads to standard error and to the file `stacks`, and
    call `on_hang` with a message. All this runs in another thread: the main thread of a hung
    process is inside a collective or waits for a file, and cannot act.
    """
    interval = min(1.0, seconds / 4)
    ended = threading.Event()

    def watch() -> None:
        looked = time.monotonic()
        while not ended.wait(interval):
            before, looked = looked, time.monotonic()
            if looked - before > interval + seconds / 2:
                activity.alive()  # the whole process was suspended: it did not hang
            elif looked - activity.seen_alive > seconds:
                hard_exit(EXIT_RETRY, report)

    def report() -> None:
        # First into memory: faulthandler stops all threads while it writes, and a pipe may block.
        with os.fdopen(os.memfd_create("stacks"), "w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            text = file.read()
        with suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
        on_hang(
            f"no step was completed for {seconds:g} s (cluster.hang_timeout_seconds), last "
            f"in phase {activity.now}: the stacks are above, and in {stacks}"
        )
        with suppress(OSError):  # last: the file system of the run directory may hang too
            stacks.write_text(text)
        # The other processes hang as well. Let them report before they lose this one.
        time.sleep(2 * interval)

    activity.alive()
    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
