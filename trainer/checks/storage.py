"""Checks of the run directory and of the data set."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path

from trainer import cluster, datasets
from trainer.checks.finding import FAILURE, OK, WARNING, Finding
from trainer.datasets import Dataset
from trainer.errors import EXIT_CONFIG

MEGABYTES = 32


def run_directory(folder: Path, chief: bool) -> Finding:
    """Write a file as process 0, read it as every process; called by all together."""
    name = "run directory"

    def write() -> dict[str, str | float]:
        if not chief:
            return {}
        contents = secrets.token_bytes(MEGABYTES << 20)
        probe = folder / f".doctor-{secrets.token_hex(4)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            began = time.perf_counter()
            probe.write_bytes(contents)
            with probe.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            return {"error": f"{folder} cannot be written: {error.strerror}"}
        seconds = time.perf_counter() - began
        return {
            "path": str(probe),
            "sha256": hashlib.sha256(contents).hexdigest(),
            "speed": MEGABYTES / seconds,
        }

    told = cluster.share(write)[0]
    if "error" in told:
        fix = "choose another with run.root=DIR or run.dir=DIR"
        return Finding(name, FAILURE, str(told["error"]), fix, EXIT_CONFIG)
    probe = Path(str(told["path"]))
    try:
        read = hashlib.sha256(probe.read_bytes()).hexdigest()
        found = Finding(name, OK, f"{folder}: {told['speed']:.0f} MB/s written by process 0")
        if read != told["sha256"]:
            found = Finding(name, FAILURE, f"{folder}: what is read is not what was written")
    except OSError as error:
        fix = "put run.root on a file system that all hosts share"
        found = Finding(name, FAILURE, f"{probe}: {error.strerror}", fix)
    cluster.share(lambda: None)  # all have read it
    if chief:
        probe.unlink(missing_ok=True)
    return found


def data_set(dataset: Dataset | None, downloadable: bool) -> Finding:
    """Tell which data set was loaded, which verifies it."""
    if dataset is not None:
        told = (
            f"{dataset.name}: {len(dataset.train.labels):,} + {len(dataset.test.labels):,} images"
        )
        return Finding("data", OK, f"{told}, sha256 {dataset.sha256[:16]}")
    files = f"{len(datasets.FILES)} files are not here"
    if downloadable:
        fix = "run doctor with --download, on one host of a shared data.cache_dir"
        return Finding("data", WARNING, f"{files}: the first start downloads them", fix)
    return Finding("data", FAILURE, files, "set data.root=DIR or data.download=true")
