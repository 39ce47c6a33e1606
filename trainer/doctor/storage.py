"""Check of the run directory: one process writes and locks a file, all see it."""

from __future__ import annotations

import os
import random
import secrets
import time
from contextlib import ExitStack
from pathlib import Path

from trainer.distributed.collectives import share
from trainer.job import lock
from trainer.job.errors import UnavailableError, writing

MEGABYTES = 32


def run_directory(folder: Path, is_chief: bool) -> str:
    """Write and lock a file as process 0, read it as every process; called by all together."""
    with ExitStack() as until_all_have_read:
        written = share(lambda: _write(folder, until_all_have_read) if is_chief else None)
        name, speed = written[0]
        slowest = min(share(lambda: _read(folder, name)))
    return f"{folder}: {speed:.0f} MB/s written by process 0, {slowest:.0f} MB/s read, locks work"


def _contents(name: str) -> bytes:
    return random.Random(name).randbytes(MEGABYTES << 20)  # noqa: S311 - the same everywhere


def _write(folder: Path, until_all_have_read: ExitStack) -> tuple[str, float]:
    """Return the name of the file, and the speed in MB/s."""
    name = f".doctor-{secrets.token_hex(4)}"
    contents = _contents(name)
    for path in (folder / name, folder / f"{name}.lock"):
        until_all_have_read.callback(path.unlink, missing_ok=True)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with (folder / name).open("xb") as file:
            file.write(contents)
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
    until_all_have_read.enter_context(lock.hold(folder, f"{name}.lock"))
    return name, MEGABYTES / seconds


def _read(folder: Path, name: str) -> float:
    """Read the file and look for the lock; return the speed in MB/s."""
    try:
        with (folder / name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from memory
            began = time.perf_counter()
            contents = file.read()
            seconds = time.perf_counter() - began
    except OSError as error:
        hint = "put run.root on a file system that all hosts share"
        raise UnavailableError(f"{folder / name}: {error.strerror}", hint) from None
    if contents != _contents(name):
        raise UnavailableError(f"{folder}: reads differ from writes", "look at the file system")
    if not lock.held(folder, f"{name}.lock"):
        raise UnavailableError(
            f"{folder}: the lock of process 0 is not visible, so two jobs could write a run",
            "mount it with locks between hosts (NFS: without nolock and local_lock)",
        )
    return MEGABYTES / seconds
