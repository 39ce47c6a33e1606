"""Checks of the run directory and of the data set."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import ExitStack
from pathlib import Path

from trainer.data import mnist
from trainer.data.dataset import Dataset
from trainer.distributed import collectives
from trainer.distributed.collectives import Json
from trainer.doctor.finding import FAILURE, OK, WARNING, Finding
from trainer.job import lock
from trainer.job.errors import ConfigError

NAME = "run directory"
MEGABYTES = 32


def run_directory(folder: Path, chief: bool) -> Finding:
    """Write and lock a file as process 0, read it as every process; called by all together."""
    with ExitStack() as until_all_have_read:
        written = collectives.share(lambda: _write(folder, until_all_have_read) if chief else None)[
            0
        ]
        probe = folder / written["name"]
        found, speed = _read(probe, written["sha256"])
        slowest = min(collectives.share(lambda: speed))
    if found.level != OK:
        return found
    told = f"{folder}: {written['speed']:.0f} MB/s written by process 0, {slowest:.0f} MB/s read"
    return found._replace(told=f"{told}, locks work")


def _write(folder: Path, until_all_have_read: ExitStack) -> Json:
    contents = secrets.token_bytes(MEGABYTES << 20)
    probe = folder / f".doctor-{secrets.token_hex(4)}"
    until_all_have_read.callback(probe.unlink, missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with probe.open("xb") as file:
            file.write(contents)
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}",
            "choose another with run.root=DIR or run.dir=DIR",
        ) from None
    until_all_have_read.callback((folder / _lock_of(probe)).unlink, missing_ok=True)
    until_all_have_read.enter_context(lock.hold(folder, _lock_of(probe)))
    digest = hashlib.sha256(contents).hexdigest()
    return {"name": probe.name, "sha256": digest, "speed": MEGABYTES / seconds}


def _read(probe: Path, sha256: str) -> tuple[Finding, float]:
    """Read what process 0 has written, and see whether its lock holds; with the speed in MB/s."""
    try:
        with probe.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from memory
            began = time.perf_counter()
            read = file.read()
            speed = MEGABYTES / (time.perf_counter() - began)
    except OSError as error:
        fix = "put run.root on a file system that all hosts share"
        return Finding(NAME, FAILURE, f"{probe}: {error.strerror}", fix), 0.0
    if hashlib.sha256(read).hexdigest() != sha256:
        told = f"{probe.parent}: what is read is not what was written"
        return Finding(NAME, FAILURE, told, "look at the file system"), speed
    if not lock.held(probe.parent, _lock_of(probe)):
        told = f"{probe.parent}: the lock of process 0 is not seen, so two jobs could write a run"
        fix = "mount it with locks between hosts (NFS: without nolock and local_lock)"
        return Finding(NAME, FAILURE, told, fix), speed
    return Finding(NAME, OK, ""), speed


def _lock_of(probe: Path) -> str:
    return f"{probe.name}.lock"


def data_set(dataset: Dataset | None, downloadable: bool) -> Finding:
    """Tell which data set was loaded, which verifies it."""
    if dataset is not None:
        told = (
            f"{dataset.name}: {len(dataset.train.labels):,} + {len(dataset.test.labels):,} images"
        )
        return Finding("data", OK, f"{told}, sha256 {dataset.sha256[:16]}")
    files = f"{len(mnist.FILES)} files are not here"
    if downloadable:
        fix = "run doctor with --download, on one host of a shared data.cache_dir"
        return Finding("data", WARNING, f"{files}: the first start downloads them", fix)
    return Finding("data", FAILURE, files, "set data.root=DIR or data.download=true")
