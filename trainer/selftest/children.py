"""The processes of one start of a run: started on this host, watched, ended by their pids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from trainer.distributed import slurm
from trainer.job import processes
from trainer.job.errors import Preempted
from trainer.job.signals import StopRequest

_DEVICE_COUNT = "--xla_force_host_platform_device_count"


class Layout(NamedTuple):
    """How a start is spread: processes on this host, devices in each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}"


def environment(
    environ: Mapping[str, str], layout: Layout, process_id: int, address: str, one_thread: bool
) -> dict[str, str]:
    """Return the variables of one child: no cluster's but ours, and its own devices. Pure.

    Args:
        environ: the variables of this process.
        layout: of the start.
        process_id: of the child.
        address: HOST:PORT of process 0.
        one_thread: a thread for each simulated device, because many devices on few cores can
            wait for each other.
    """
    env = processes.environment(environ, layout.processes, process_id, address)
    flags = [f for f in env.get("XLA_FLAGS", "").split() if not f.startswith(_DEVICE_COUNT)]
    flags.append(f"{_DEVICE_COUNT}={layout.devices}")
    if one_thread:
        flags.append("--xla_cpu_multi_thread_eigen=false")
    env["XLA_FLAGS"] = " ".join(flags)
    if layout.processes > 1:
        first, last = process_id * layout.devices, (process_id + 1) * layout.devices
        visible = slurm.visible_gpus(env)
        mine = range(first, last) if visible is None else visible[first:last]
        env[slurm.CUDA_VISIBLE] = ",".join(map(str, mine))  # no two share one
    return env


class Children:
    """The processes of one start; a context manager that leaves none of them behind."""

    def __init__(
        self,
        overrides: Sequence[str],
        layout: Layout,
        logs: Sequence[Path],
        stop: StopRequest,
        one_thread: bool,
    ) -> None:
        """Start them all; what they print goes to `logs`, a file each.

        Args:
            overrides: of `python -m trainer`, the same for all.
            layout: how many processes, and devices in each.
            logs: one file for each process.
            stop: looked at while waiting.
            one_thread: as in `environment`.
        """
        self.began = time.monotonic()
        self.began_at = time.time()  # to compare with what files say
        self._stop = stop
        self.processes: list[subprocess.Popen[bytes]] = []
        address = processes.free_address()
        try:
            for process_id, log in enumerate(logs):
                with ExitStack() as stack:
                    self.processes.append(
                        processes.start(
                            [sys.executable, "-m", "trainer", *overrides],
                            env=environment(os.environ, layout, process_id, address, one_thread),
                            stdout=stack.enter_context(log.open("wb")),
                            stderr=subprocess.STDOUT,
                        )
                    )
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    @property
    def codes(self) -> list[int | None]:
        """The exit codes, None for those that run, minus the number for those a signal ended."""
        return [process.poll() for process in self.processes]

    def wait(self, seconds: float, look: Callable[[], object] = lambda: None) -> bool:
        """Wait until all have ended, at most so long; return whether they have.

        Args:
            seconds: from now.
            look: called again and again while waiting.

        Raises:
            Preempted: this command was asked to stop.
        """

        def check() -> None:
            if self._stop():
                raise Preempted(f"{self._stop.signal_name} received: the children are ended")
            look()

        return processes.wait(self.processes, seconds, check)

    def listening(self, process_id: int) -> bool:
        """Return whether a process catches the signals that ask it to stop.

        It does not in its first hundredths of a second, nor while the interpreter ends. Where the
        system does not tell, the answer is no.
        """
        with suppress(OSError, ValueError):
            status = Path(f"/proc/{self.processes[process_id].pid}/status").read_text()
            for line in status.splitlines():
                if line.startswith("SigCgt:"):  # SIGUSR1: the last that preemption.py installs
                    return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)
        return False

    def send(self, process_id: int, number: signal.Signals) -> None:
        """Send a signal to one process; nothing happens where it has ended."""
        self.processes[process_id].send_signal(number)

    def end(self) -> None:
        """End what still runs, with all it has started, and wait for it."""
        processes.end(self.processes)
