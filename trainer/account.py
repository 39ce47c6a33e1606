"""Where the time went: seconds of each phase of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PHASES = ("startup", "compile", "data_wait", "step", "evaluate", "save", "restore")


class Account:
    """Seconds spent in each phase, by the clock of this process."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._inner = 0.0  # seconds already given to phases inside the one that is open

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a phase, less that of phases inside it."""
        outer, self._inner = self._inner, 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] += seconds - self._inner
            self._inner = outer + seconds

    @property
    def training(self) -> float:
        """Seconds of training: stepping, waiting for data, and what saving held up."""
        return sum(self.seconds[name] for name in ("data_wait", "step", "save"))
