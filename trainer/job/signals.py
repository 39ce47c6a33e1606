"""Stop requests: every signal that asks a process to end only sets a flag.

Saving inside a signal handler fails now and then, because jax holds locks of its own. So the
trainer reads the flag between the phases of start-up and once per dispatch, where all processes
agree on the step at which they stop. Code that waits for something gets `check` as a callback to
poll, and needs to know nothing about signals.
"""

import signal
from types import FrameType

from trainer.job.errors import Preempted

# SIGHUP: a terminal or an ssh session was closed. SIGUSR1, SIGUSR2 and SIGXCPU: warnings of batch
# systems before a time limit. The last one installed tells others that all are: see selftest.
SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2),
    signal.SIGUSR1,
)


class StopRequest:
    """Whether a signal has asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def install(self) -> None:
        """Handle the signals; call it again after code that may have replaced the handlers."""
        for number in SIGNALS:
            nohup = number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
            if not nohup:  # the job was started to outlive its terminal
                signal.signal(number, self._note)

    def ignore(self) -> None:
        """Ignore the signals from now on: the work is done, only the exit is left."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def __call__(self) -> bool:
        """Return whether a signal has arrived."""
        return self.signal_name is not None

    def check(self, when: str) -> None:
        """Raise Preempted if a signal has arrived; `when`: such as "while waiting for X"."""
        if self():
            raise Preempted(f"{self.signal_name} received {when}")

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
