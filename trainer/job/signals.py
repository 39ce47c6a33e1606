"""Being asked to stop: SIGTERM, SIGINT and SIGUSR1 set a flag, and nothing else.

Saving inside a handler fails now and then, and jax holds locks of its own; so the flag is looked
at between the phases of start-up and once a dispatch in training, where all processes agree on the
step at which they stop.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def install(self) -> None:
        """Take the signals over; again after anything that may have taken them away."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def ignore(self) -> None:
        """Let the signals change nothing more: the work is done, only the exit is left."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __call__(self) -> bool:
        """Return whether a signal has come."""
        return self.signal_name is not None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
