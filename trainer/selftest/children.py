"""The processes of one start of a run, on this host: their variables, start and end."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from trainer.distributed import gpus
from trainer.job import processes


class Layout(NamedTuple):
    """The number of processes on this host, and of devices in each."""

    processes: int
    devices: int

    def __str__(self) -> str:
        return f"{self.processes}x{self.devices}"


def environment(
    environ: Mapping[str, str], layout: Layout, process_id: int, address: str, most: int
) -> dict[str, str]:
    """Return the variables of one child: those of this process, with devices of its own.

    `address` is HOST:PORT of process 0; `most` is the largest number of devices of any process
    whose results are compared with this one's.
    """
    env = processes.environment(environ, layout.processes, process_id, address)
    env = processes.with_devices(env, layout.devices)
    if most > 1:
        # XLA multiplies with as many threads as there are cores, or devices if these are more, and
        # the last digits of large products depend on that number: it is made equal for all.
        env["NPROC"] = str(max(most, len(os.sched_getaffinity(0))))
        # Many simulated devices on few cores can wait for each other's threads for ever.
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    if layout.processes > 1:  # no two share a GPU
        first, last = process_id * layout.devices, (process_id + 1) * layout.devices
        visible = gpus.visible(env)
        own = range(first, last) if visible is None else visible[first:last]
        env[gpus.CUDA_VISIBLE] = ",".join(map(str, own))
    return env


@contextmanager
def started(
    command: Sequence[str], layout: Layout, logs: Sequence[Path], most: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a program in each process of a layout; kill those that are left at the exit.

    `logs` has a file for the output of each process; `most` is that of `environment`.
    """
    address, children = processes.free_address(), []
    try:
        for index, path in enumerate(logs):
            env = environment(os.environ, layout, index, address, most)
            with path.open("wb") as log:
                children.append(processes.start(command, env=env, stdout=log, stderr=log))
        yield children
    finally:
        processes.end(children)


def handles_signals(pid: int) -> bool:
    """Return whether a process handles the signals that ask it to stop.

    It does not in its first hundredths of a second, nor while the interpreter ends.
    """
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):  # SIGUSR1 is the last that job.signals installs
                return bool(int(line.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)
    return False
