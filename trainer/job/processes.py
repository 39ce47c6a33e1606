"""Child processes on this host: their variables; starting, watching and ending them."""

import ctypes
import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from trainer.job.errors import EXIT_INTERNAL

# Variables by which a process would take itself for a task of a cluster's job.
_CLUSTER_PREFIXES = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "JAX_COORDINATOR_", "JAX_NUM_PROCESSES")
_CLUSTER_NAMES = ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def environment(environ: Mapping[str, str], count: int, index: int, address: str) -> dict[str, str]:
    """Return the variables for one of `count` processes, without those of a cluster. Pure.

    `index` is its number among them, `address` HOST:PORT of process 0. One alone needs neither.
    """
    env = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_CLUSTER_PREFIXES) and name not in _CLUSTER_NAMES
    }
    if count > 1:
        env["JAX_COORDINATOR_ADDRESS"] = address
        env["JAX_NUM_PROCESSES"] = str(count)
        env["JAX_PROCESS_ID"] = str(index)
    return env


def free_address() -> str:
    """Return HOST:PORT of a free port of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program, with more options of Popen, that dies when this process dies.

    It has a session of its own, so Ctrl-C reaches it only through this process.
    """
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:  # runs in the child, between fork and exec
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent has died already
            os._exit(EXIT_INTERNAL)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepare,
        **options,
    )


def wait(
    children: Sequence[subprocess.Popen[Any]],
    seconds: float | None = None,
    look: Callable[[], object] = lambda: None,
    poll: float = 0.005,
) -> bool:
    """Wait until all children have ended; return False if they have not after `seconds`.

    `look` is called every `poll` seconds; whatever it raises ends the wait.
    """
    until = math.inf if seconds is None else time.monotonic() + seconds
    while None in [child.poll() for child in children]:
        left = until - time.monotonic()
        if left <= 0:
            return False
        look()
        time.sleep(min(poll, left))
    return True


def end(children: Sequence[subprocess.Popen[Any]]) -> None:
    """Kill the children that still run, with everything they have started, and wait for them."""
    for child in children:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
    for child in children:
        child.wait()
