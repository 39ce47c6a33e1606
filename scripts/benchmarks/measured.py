"""Processes that are measured: their output, seconds and memory. None is left behind."""

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from trainer.job import processes
from trainer.selftest.children import Layout, started

ONE = Layout(1, 1)
TIMEOUT = 600  # seconds
POLL_SECONDS = 0.002
MEMORY_SECONDS = 0.05  # between two readings of a process's memory


class Failed(Exception):
    """A process ended with an error, or did not end; the message has its last lines."""


class Ended(NamedTuple):
    """One process that has ended with code 0."""

    output: str  # stdout and stderr
    began: float  # unix seconds
    seconds: float  # from its start to its end
    peak_bytes: int  # of its resident memory; 0 where there is no /proc


def run(
    command: Sequence[str], layout: Layout = ONE, look: Callable[[], object] = lambda: None
) -> list[Ended]:
    """Start a program in each process of a layout, wait for all, and return how they ended.

    `look` is called every few milliseconds while they run.

    Raises:
        Failed: one ended with another code than 0, or not in time; all are ended then.
    """
    began, clock, next_memory = time.time(), time.perf_counter(), 0.0
    seconds, peaks = [0.0] * layout.processes, [0] * layout.processes

    def check() -> None:
        nonlocal next_memory
        now = time.perf_counter() - clock
        for index, child in enumerate(children):
            if child.returncode:
                raise failed(index, f"ended with {child.returncode}")
            if child.returncode is None:
                seconds[index] = now
                if now >= next_memory:
                    peaks[index] = peak_bytes(child.pid) or peaks[index]
        next_memory = next_memory if now < next_memory else now + MEMORY_SECONDS
        look()

    def output(index: int) -> str:
        return logs[index].read_text(errors="replace")

    def failed(index: int, what: str) -> Failed:
        lines = [text for line in output(index).splitlines() if (text := line.strip(" ^~|\t"))]
        return Failed(f"{what}: {' | '.join(lines[-2:])[-400:]}")

    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, str(index)) for index in range(layout.processes)]
        with started(command, layout, logs, layout.devices) as children:
            if not processes.wait(children, TIMEOUT, check, POLL_SECONDS):
                raise failed(0, f"not done after {TIMEOUT} s")
            check()
            return [Ended(output(i), began, seconds[i], peaks[i]) for i in range(len(children))]


def peak_bytes(pid: int) -> int:
    """Return the peak of a process's resident memory; 0 where it cannot be read.

    wait4() reports it at the end, but counts the memory of the parent before the exec, too.
    """
    with suppress(OSError):  # it has just ended, or there is no /proc
        status = Path(f"/proc/{pid}/status").read_text()
        if peak := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(peak[1]) * 1024
    return 0
