"""How long to wait for others at the start, unless asked to stop meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.job.errors import Preempted


class Deadline:
    """A number of seconds from now on."""

    def __init__(self, timeout: float, stop: Callable[[], bool], waiting_for: str) -> None:
        """Begin to wait.

        Args:
            timeout: seconds.
            stop: whether this process was asked to stop.
            waiting_for: what, in words.
        """
        self.timeout = timeout
        self._end = time.monotonic() + timeout
        self._stop = stop
        self._waiting_for = waiting_for

    def over(self, grace: float = 0) -> bool:
        """Return whether it has passed, by `grace` seconds.

        Raises:
            Preempted: asked to stop.
        """
        if self._stop():
            raise Preempted(f"asked to stop while waiting for {self._waiting_for}")
        return time.monotonic() > self._end + grace
