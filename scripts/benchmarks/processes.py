"""Processes that are measured: started, watched, their memory noted, none left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, NamedTuple

POLL_SECONDS = 0.002
LOOK_SECONDS = 0.05  # between looks at a process's memory


class Failed(Exception):
    """A process ended with an error, or did not end; the message has its last words."""


class Ended(NamedTuple):
    """One process that has ended well."""

    output: str  # stdout and stderr
    began: float  # unix seconds
    seconds: float  # from its start to its end
    peak_bytes: int  # of its resident memory, as seen every LOOK_SECONDS; 0 where there is no /proc


class _Child:
    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: IO[bytes], stack: ExitStack
    ) -> None:
        self.log = log
        self.began, self._clock = time.time(), time.perf_counter()
        self.process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.seconds: float | None = None
        self.peak_bytes = 0
        self._next_look = 0.0
        stack.callback(self.end)

    def poll(self) -> bool:
        """Return whether it has ended; the first time, note how long it took and its memory."""
        if self.seconds is None:
            self._look_at_memory()
            pid, status, _ = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.seconds = time.perf_counter() - self._clock
                self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.seconds is not None

    def _look_at_memory(self) -> None:
        """Note the peak so far; what wait4 tells at the end is at least the peak of the parent."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        with suppress(OSError):  # it has just ended
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            if found := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
                self.peak_bytes = int(found[1]) * 1024

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def end(self) -> None:
        if self.seconds is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.wait4(self.process.pid, 0)
            self.process.returncode = -signal.SIGKILL


def run(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    timeout: float,
    look: Callable[[], object] = lambda: None,
) -> list[Ended]:
    """Start one process for each environment at once, wait for all, and return how they ended.

    Args:
        command: of all of them.
        environments: the variables of each.
        timeout: seconds after which they are killed.
        look: called every few milliseconds while they run.

    Raises:
        Failed: one ended with another code than 0, or not in time; all are gone then.
    """
    with ExitStack() as stack:
        children = [
            _Child(command, env, stack.enter_context(tempfile.TemporaryFile()), stack)
            for env in environments
        ]
        until = time.monotonic() + timeout
        while not all(child.poll() for child in children):  # a list: every one is asked
            if any(child.process.returncode for child in children):
                break
            if time.monotonic() > until:
                raise Failed(f"not done after {timeout:.0f} s: {_tail(children[0].output())}")
            look()
            time.sleep(POLL_SECONDS)
        for child in children:
            if child.process.returncode:
                code = child.process.returncode
                raise Failed(f"ended with {code}: {_tail(child.output())}")
        return [Ended(c.output(), c.began, c.seconds or 0.0, c.peak_bytes) for c in children]


def _tail(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip(" ^~|\t")]
    return " | ".join(lines[-2:])[-400:]
