"""Ends a process that hangs, after writing down where."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from trainer.errors import EXIT_RETRY


class Watchdog:
    """Ends the process if beat() is not called for some time; a context manager.

    A thread of its own does it: the main thread of a hung process is inside a collective.
    """

    def __init__(self, seconds: float, stacks: Path, on_hang: Callable[[str], None]) -> None:
        """Describe the watch; it begins with the block.

        Args:
            seconds: without a beat, until the process counts as hung.
            stacks: file for the stacks of all threads.
            on_hang: told what happened, just before the process ends with code 75.
        """
        self._seconds = seconds
        self._stacks = stacks
        self._on_hang = on_hang
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def beat(self) -> None:
        """Say that the process is alive and moving."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                try:
                    with self._stacks.open("w") as file:
                        faulthandler.dump_traceback(file, all_threads=True)
                except OSError:  # the run directory may be what hangs
                    faulthandler.dump_traceback(all_threads=True)
                self._on_hang(
                    f"no step was completed for {self._seconds:g} s "
                    f"(cluster.hang_timeout_seconds): the stacks are in {self._stacks}"
                )
                sys.stderr.flush()
                os._exit(EXIT_RETRY)
