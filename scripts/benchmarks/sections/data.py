"""The data path alone: by K, by processes, and for a set ten times as large."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line
from benchmarks.workers.rival import read
from trainer.selftest.children import Layout

TITLE = "The data path alone, batch 64"
TIMES = 10  # as many images in the large set


def measure(bench: Bench) -> Section:
    """Read superbatches as fast as they come; each process is bound to one core."""
    ks = [1, 32] if bench.quick else [1, 8, 32, 67, 256]
    counts = [2] if bench.quick else [2, 4]
    count = bench.machine["dataset"]["train_examples"]
    large = TIMES * count
    folders = {count: Path(bench.arrays), large: bench.scratch / "large"}
    write_large(bench, folders[large])

    def job(size: int, k: int, processes: int = 1) -> partial[Result]:
        return partial(
            bench.worker,
            "parts.stream",
            layout=Layout(processes, 1),
            folder=str(folders[size]),
            batch_size=64,
            k=k,
            steps=(300_000 if bench.quick else 1_200_000) // 64,
            processes=processes,
            cores=bench.cores,
        )

    jobs = {f"{count:,} images, K={k}": job(count, k) for k in ks}
    jobs |= {f"{large:,} images, K={k}": job(large, k) for k in (1, 32)}
    jobs |= {f"{count:,} images, K=32, {n} processes": job(count, 32, n) for n in counts}

    def total(result: Result) -> float:
        return sum(one["images_per_second"] for one in (result, *result["each"]))

    lines = []
    for name, results in bench.interleave(jobs).items():
        cores = f"a core each, of {len(bench.cores)}" if "processes" in name else "one core"
        includes = f"a new order every epoch, gathered, through grain; {cores}"
        lines.append(line(name, includes, "M images/s", results, total, scale=1e-6))
    remark = (
        f"The {large:,} images are {TIMES} copies of the set in a .npy file that is mapped into "
        "memory; it is in the page cache when it is read."
    )
    shutil.rmtree(folders[large])
    return Section(TITLE, lines, [remark])


def write_large(bench: Bench, folder: Path) -> None:
    """Write the training set, ten times over."""
    folder.mkdir()
    for field, array in read(bench.arrays, "train").items():
        shape = (TIMES * len(array), *array.shape[1:])
        file = folder / f"train_{field}.npy"
        copies = np.lib.format.open_memmap(file, "w+", array.dtype, shape)
        copies.reshape(TIMES, *array.shape)[:] = array
        copies.flush()
