"""The data path alone: by K, by processes, and for a set ten times as large."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line
from trainer.selftest.children import Layout

TITLE = "The data path alone, batch 64"
PORTION = 60_000  # images drawn at a time


def measure(bench: Bench) -> Section:
    """Read superbatches as fast as they come; each process is bound to one core."""
    ks = [1, 32] if bench.quick else [1, 8, 32, 67, 256]
    counts = [2] if bench.quick else [2, 4]
    count = bench.machine["dataset"]["train_examples"]
    folders = {count: Path(bench.arrays), 10 * count: bench.scratch / "large"}
    write_large(folders[10 * count], 10 * count, bench.machine["dataset"]["pixels"])

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
    jobs |= {f"{10 * count:,} images, K={k}": job(10 * count, k) for k in (1, 32)}
    jobs |= {f"{count:,} images, K=32, {n} processes": job(count, 32, n) for n in counts}

    def total(result: Result) -> float:
        return sum(one["images_per_second"] for one in (result, *result["each"]))

    lines = []
    for name, results in bench.interleave(jobs).items():
        cores = f"a core each, of {len(bench.cores)}" if "processes" in name else "one core"
        includes = f"a new order every epoch, gathered, through grain; {cores}"
        lines.append(line(name, includes, "M images/s", results, total, scale=1e-6))
    rates = {one.name: one.median for one in lines if one.values}
    remark = (
        f"The set of {10 * count:,} images is random bytes in a .npy file that is mapped into "
        "memory; it is in the page cache when it is read."
    )
    (folders[10 * count] / "train_images.npy").unlink()
    return Section(TITLE, lines, [remark], {"million_images_per_second": rates})


def write_large(folder: Path, count: int, pixels: int) -> None:
    """Write a set of random images and labels as two .npy files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(
        folder / "train_images.npy", mode="w+", dtype=np.uint8, shape=(count, pixels)
    )
    for lo in range(0, count, PORTION):
        part = images[lo : lo + PORTION]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
    images.flush()
    np.save(folder / "train_labels.npy", rng.integers(0, 10, count).astype(np.uint8))
