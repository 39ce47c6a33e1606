"""Child processes on this host: their variables; starting, watching and ending them."""

import ctypes
import math
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.job.errors import EXIT_INTERNAL, UnavailableError

# Variables by which a process would take itself for a task of a cluster's job.
_CLUSTER_PREFIXES = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "JAX_COORDINATOR_", "JAX_NUM_PROCESSES")
_CLUSTER_NAMES = ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX", "MASTER_ADDR", "MASTER_PORT")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PAGE = os.sysconf("SC_PAGE_SIZE")
_DEVICES = "JAX_NUM_CPU_DEVICES"
_DEVICES_FLAG = "--xla_force_host_platform_device_count="  # in XLA_FLAGS, and weaker than that


def environment(environ: Mapping[str, str], count: int, index: int, address: str) -> dict[str, str]:
    """Return the variables for one of `count` processes, without those of a cluster. Pure.

    `index` is its number among them, `address` HOST:PORT of process 0. A single one needs neither.
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


def simulated_devices(environ: Mapping[str, str]) -> int:
    """Return how many devices jax makes of the CPU. Pure."""
    counts = re.findall(rf"{_DEVICES_FLAG}(\d+)", environ.get("XLA_FLAGS", ""))
    counts += re.findall(r"^\d+$", environ.get(_DEVICES, ""))
    return int(counts[-1]) if counts else 1


def with_devices(environ: Mapping[str, str], count: int) -> dict[str, str]:
    """Return the variables with which jax makes `count` devices of the CPU. Pure."""
    env = {**environ, _DEVICES: str(count)}
    flags = env.pop("XLA_FLAGS", "").split()
    if others := [flag for flag in flags if not flag.startswith(_DEVICES_FLAG)]:
        env["XLA_FLAGS"] = " ".join(others)
    return env


def free_address() -> str:
    """Return HOST:PORT of a free port of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(
    command: Sequence[str], cores: Collection[int] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start a program, with more options of Popen, that dies when this process dies.

    It has a session of its own, so Ctrl-C reaches it only through this process. `cores` are the
    CPU cores that it may use; None: those of this process.
    """
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:  # runs in the child, between fork and exec
        # The kernel sends it when the thread that has called start() ends, not only the process.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent has died already
            os._exit(EXIT_INTERNAL)
        if cores is not None:
            os.sched_setaffinity(0, cores)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=prepare,
        **options,
    )


def output(command: Sequence[str], given: str = "") -> str:
    """Run a scheduler's program with `given` as its standard input; return its output.

    Raises:
        UnavailableError: it is missing, or failed.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        hint = "run this where the scheduler's programs are installed"
        raise UnavailableError(f"{command[0]}: {error.strerror}", hint) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip()
        raise UnavailableError(f"{command[0]} failed with {done.returncode}: {lines}")
    return done.stdout


def resident(child: subprocess.Popen[Any]) -> int:
    """Return the bytes of memory that a child uses; 0 if it has ended."""
    with suppress(OSError):
        return int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def available_memory() -> int:
    """Return the bytes of memory that new processes of this host can use without swapping."""
    (kib,) = re.findall(
        r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE
    )
    return int(kib) << 10


def wait(
    children: Sequence[subprocess.Popen[Any]],
    seconds: float | None = None,
    look: Callable[[], object] = lambda: None,
    poll: float = 0.005,
    until: Callable[[Iterable[bool]], bool] = all,
) -> bool:
    """Wait until all children have ended; return False if they have not after `seconds`.

    `look` is called every `poll` seconds; whatever it raises ends the wait. With `until=any`, one
    child that has ended is enough.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    while not until([child.poll() is not None for child in children]):
        left = end - time.monotonic()
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
                # Its session, which start() has given it, has its number.
                os.killpg(child.pid, signal.SIGKILL)
    for child in children:
        child.wait()
