"""Processes of one run, all on this host: their variables, and how they are started.

Needs the standard library only: scripts/local reads it with whatever Python there is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from trainer.job.errors import EXIT_INTERNAL

# What would tell a process that it is a task of a cluster's job, and make it look for the others.
_CLUSTER_PREFIXES = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "JAX_COORDINATOR_", "JAX_NUM_PROCESSES")
_CLUSTER_NAMES = ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def environment(environ: Mapping[str, str], count: int, index: int, address: str) -> dict[str, str]:
    """Return the variables of one of `count` processes: no cluster's but ours. Pure.

    Args:
        environ: the variables of this process.
        count: of processes; one alone needs no variables.
        index: of the process.
        address: HOST:PORT of process 0.
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
    """Return HOST:PORT of this host where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that hears of Ctrl-C only through us, and that the kernel kills with us.

    Args:
        command: the program and its arguments.
        options: of Popen.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_tie(),
        **options,
    )


def _tie() -> Callable[[], None]:
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def tie() -> None:  # runs in the child, between fork and exec
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already
            os._exit(EXIT_INTERNAL)

    return tie
