"""`python -m trainer local N ...`: train in several processes on this machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO, Any

from trainer.commands import COMMANDS
from trainer.distributed.gpus import usable
from trainer.job import processes, resources
from trainer.job.errors import EXIT_COMPLETED, ConfigError
from trainer.job.signals import StopRequest
from trainer.job.stdout import show

HELP = """\
python -m trainer local N [COMMAND] [OPTION=VALUE ...]

Trains in N processes on this machine; its GPUs, where there are some, are divided among them. The
options are those of `python -m trainer`; a command may stand before them. Each line begins with the
number of its process. When a process fails, the others save and end, and its last lines are shown.
A signal that asks it to stop is passed on as SIGTERM; the run saves and ends with 75. So it does
when the terminal, or the reader of a pipe, goes away.

exit codes:
  0   all processes have completed
  78  the number of processes is missing or does not divide the GPUs
  else the code of the process that failed first

examples:
  python -m trainer local 2 +experiment=mlp train.epochs=3
  python -m trainer local 2 doctor +experiment=mlp
"""
GRACE = 40  # seconds to notice a lost process (cluster.heartbeat_timeout_seconds=20) and to save
COLORS = (36, 33, 35, 32, 34, 31)


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Start the processes, wait for all, and return the exit code of the first that failed.

    Raises:
        ConfigError: the number of processes is none, or does not divide the GPUs.
    """
    if {"-h", "--help"} & {*arguments[:1]}:
        show(HELP.rstrip())
        return EXIT_COMPLETED
    count, *others = arguments or [""]
    if not count.isdecimal() or int(count) < 1:
        hint = "the number of processes comes first: python -m trainer local 2 +experiment=mlp"
        raise ConfigError(f"local {count}", hint)
    shares = shares_of_gpus(int(count), dict(os.environ))
    return Job(len(shares), stop).run([sys.executable, "-m", "trainer"], others, shares)


class Job:
    """The processes of one run."""

    def __init__(self, count: int, stop: StopRequest) -> None:
        self.stop, self.width = stop, len(str(count - 1))
        self.last = [deque[str](maxlen=15) for _ in range(count)]
        self.writing = threading.Lock()
        self.unread = False  # nobody reads what is printed any more
        self.children: list[subprocess.Popen[str]] = []

    def run(self, program: list[str], arguments: list[str], shares: list[str | None]) -> int:
        """Start all, wait for all, and return the run's exit code: of the first that failed."""
        address, token = processes.free_address(), secrets.token_hex(16)
        paths = os.environ.get("PYTHONPATH")
        if resources.is_checkout():  # it may be the current folder, which PYTHONSAFEPATH hides
            paths = os.pathsep.join(filter(None, [str(resources.home()), paths]))
        for index, share in enumerate(shares):
            environ = processes.environment(os.environ, len(shares), index, address)
            # PYTHONSAFEPATH: not another package `trainer` of the current folder.
            environ |= {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1", "TRAINER_TOKEN": token}
            environ |= {"PYTHONPATH": paths} if paths else {}
            own = arguments
            if share is not None:
                environ["CUDA_VISIBLE_DEVICES"] = share
                own = expecting(len(share.split(",")), arguments)
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self.children.append(
                processes.start([*program, *own], env=environ, text=True, errors="replace", **pipes)
            )
        readers = [
            threading.Thread(target=self.copy, args=(index, pipe, out), daemon=True)
            for index, child in enumerate(self.children)
            for pipe, out in ((child.stdout, sys.stdout), (child.stderr, sys.stderr))
        ]
        for reader in readers:
            reader.start()
        failed = self.wait()
        for reader in readers:
            reader.join()
        if failed is None:
            return 0
        codes = [child.returncode for child in self.children]
        code = codes[failed]
        ended = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        lines = "".join(f"    {line}" for line in self.last[failed])
        self.write(f"local: process {failed} ended {ended}\n{lines}", sys.stdout)
        self.write(f"local: exit codes by process: {codes}\n", sys.stderr)
        return code if code > 0 else 128 - code

    def wait(self) -> int | None:
        """Wait until all have ended; return the first that failed, None if all completed."""
        failed: list[int] = []  # in the order of their ends
        ending: list[float] = []  # when the others got SIGTERM
        passed_on = False

        def look() -> None:
            nonlocal passed_on
            if self.stop() and not passed_on:
                passed_on = True
                self._send(signal.SIGTERM)  # whatever came: all commands know this one
            codes = enumerate(child.returncode for child in self.children)
            failed.extend(index for index, code in codes if code and index not in failed)
            if not ending and (failed or self.unread):
                ending.append(time.monotonic())
                self._send(signal.SIGTERM)  # they save, and report which process was lost
            if ending and time.monotonic() - ending[0] > GRACE:
                processes.end(self.children)

        processes.wait(self.children, None, look, poll=0.05)
        look()
        return failed[0] if failed else None

    def copy(self, index: int, pipe: IO[str], out: IO[str]) -> None:
        """Print the lines of a process, each behind its number."""
        label = f"[{index:>{self.width}}]"
        if out.isatty():
            label = f"\x1b[{COLORS[index % len(COLORS)]}m{label}\x1b[0m"
        for line in pipe:
            self.last[index].append(line)
            self.write(f"{label} {line}", out)

    def write(self, text: str, out: IO[str]) -> None:
        """Print; if nobody reads it, print nowhere: a full pipe would stop its writer."""
        with self.writing:
            try:
                out.write(text)
                out.flush()
            except OSError:
                self.unread = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())

    def _send(self, number: signal.Signals) -> None:
        for child in self.children:
            child.send_signal(number)  # does nothing if it has ended


def expecting(gpus: int, arguments: list[str]) -> list[str]:
    """Add an option that refuses to train with fewer GPUs, or on the CPU."""
    place = 1 if arguments and arguments[0] in COMMANDS else 0
    return [*arguments[:place], f"cluster.gpus_per_process={gpus}", *arguments[place:]]


def shares_of_gpus(count: int, environ: dict[str, str]) -> list[str | None]:
    """Return the CUDA_VISIBLE_DEVICES of each process; None where there is no GPU to share.

    Raises:
        ConfigError: the GPUs cannot be divided equally.
    """
    shown = usable(environ)
    if not shown:
        return [None] * count
    each, rest = divmod(len(shown), count)
    if rest:
        hint = f"use a divisor of {len(shown)}, or JAX_PLATFORMS=cpu"
        raise ConfigError(f"{count} processes do not divide over {len(shown)} GPUs", hint)
    return [",".join(shown[i * each : (i + 1) * each]) for i in range(count)]
