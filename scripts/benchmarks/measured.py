"""Processes that are measured: their output, seconds and memory. None is left behind."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from trainer.job import processes

TIMEOUT = 600  # seconds
POLL_SECONDS = 0.002
MEMORY_POLLS = 25  # polls between two readings of a process's memory


class Failed(Exception):
    """A process ended with an error, or did not end; the message has its last lines."""


class Ended(NamedTuple):
    """One process that has ended with code 0."""

    output: str  # stdout and stderr
    began: float  # unix seconds
    seconds: float  # from its start to its end
    peak_bytes: int  # of its resident memory; 0 where there is no /proc


def run(
    command: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    look: Callable[[], object] = lambda: None,
) -> list[Ended]:
    """Start one process for each environment at once, wait for all, and return how they ended.

    Args:
        command: of all of them.
        environments: the variables of each.
        look: called every few milliseconds while they run.

    Raises:
        Failed: one ended with another code than 0, or not in time; all are ended then.
    """
    began, clock = time.time(), time.perf_counter()
    with ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in environments]
        children: list[subprocess.Popen[bytes]] = []
        stack.callback(processes.end, children)
        for env, log in zip(environments, logs, strict=True):
            children.append(processes.start(command, env=env, stdout=log, stderr=log))
        seconds, peaks, polls = [0.0] * len(children), [0] * len(children), itertools.count()

        def output(index: int) -> str:
            logs[index].seek(0)
            return logs[index].read().decode(errors="replace")

        def check() -> None:
            now, memory = time.perf_counter() - clock, next(polls) % MEMORY_POLLS == 0
            for index, child in enumerate(children):
                if memory:
                    peaks[index] = peak_bytes(child.pid) or peaks[index]
                if child.returncode is None:
                    seconds[index] = now
                elif child.returncode:
                    text = [s for line in output(index).splitlines() if (s := line.strip(" ^~|\t"))]
                    last = " | ".join(text[-2:])[-400:]
                    raise Failed(f"ended with {child.returncode}: {last}")
            look()

        if not processes.wait(children, TIMEOUT, check, POLL_SECONDS):
            raise Failed(f"not done after {TIMEOUT} s: {output(0)[-400:]}")
        check()
        return [Ended(output(i), began, seconds[i], peaks[i]) for i in range(len(children))]


def peak_bytes(pid: int) -> int:
    """Return the peak of a process's resident memory; 0 where the system does not tell.

    wait4() would tell it at the end, but counts the memory of the parent before the exec, too.
    """
    with suppress(OSError):  # it has just ended, or there is no /proc
        status = Path(f"/proc/{pid}/status").read_text()
        if peak := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
            return int(peak[1]) * 1024
    return 0
