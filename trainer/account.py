"""Where the time went: seconds of each phase of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import trainer

PHASES = ("startup", "compile", "data_wait", "step", "evaluate", "save", "restore")


class Account:
    """Seconds spent in each phase, by the clock of this process."""

    def __init__(self, startup_seconds: float = 0.0) -> None:
        """Begin; `startup_seconds` have passed before."""
        self._began = time.perf_counter() - startup_seconds
        self.seconds = dict.fromkeys(PHASES, 0.0) | {"startup": startup_seconds}
        self.now = "startup"  # the phase that is open
        self._inner = 0.0  # seconds already given to phases inside the one that is open
        self.alive()

    def alive(self) -> None:
        """Note a sign of life; the beginning and the end of each phase are one."""
        self.seen_alive = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a phase, less that of phases inside it."""
        outer, self._inner = self._inner, 0.0
        outer_name, self.now = self.now, name
        start = time.perf_counter()
        self.alive()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] += seconds - self._inner
            self._inner = outer + seconds
            self.now = outer_name
            self.alive()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, in phases or not."""
        return time.perf_counter() - self._began

    @property
    def training(self) -> float:
        """Seconds of training: stepping, waiting for data, and what saving held up."""
        return sum(self.seconds[name] for name in ("data_wait", "step", "save"))


def process_seconds() -> float:
    """Return the seconds since Python began to import the trainer.

    Not since the process began: `exec` keeps the time of the script that came before, of
    scripts/train for example, which may have installed packages.
    """
    return time.monotonic() - trainer.BEGAN
