"""The data path alone: by K, by processes, and for a set ten times as large."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.bench import Bench
from benchmarks.lines import Section, line
from trainer.selftest.children import Layout

TITLE = "The data path alone, batch 64"
PORTION = 60_000  # images drawn at a time


def measure(bench: Bench) -> Section:
    """Read superbatches as fast as they come; each process is bound to one core."""
    ks = [1, 32] if bench.quick else [1, 8, 32, 67, 256]
    counts = [1, 2] if bench.quick else [1, 2, 4]
    plain = (f"{bench.arrays}/train_images.npy", f"{bench.arrays}/train_labels.npy")
    count = bench.machine["dataset"]["train_examples"]
    large = write_large(bench.scratch / "large", 10 * count, bench.machine["dataset"]["pixels"])
    images = 300_000 if bench.quick else 1_200_000

    def job(files: tuple[str, str], k: int, processes: int) -> partial[dict[str, object]]:
        return partial(
            bench.worker,
            "data_path",
            layout=Layout(processes, 1),
            images=files[0],
            labels=files[1],
            batch_size=64,
            k=k,
            steps=images // 64,
            processes=processes,
            cores=bench.cores,
        )

    jobs = {f"{count:,} images, K={k}": job(plain, k, 1) for k in ks}
    jobs |= {f"{10 * count:,} images, K={k}": job(large, k, 1) for k in (1, 32)}
    jobs |= {f"{count:,} images, K=32, {n} processes": job(plain, 32, n) for n in counts[1:]}
    found = bench.interleave(jobs)
    for results in found.values():
        for result in results:
            if "left_out" not in result:
                rates = [result, *result["each"]]
                result["total"] = sum(one["images_per_second"] for one in rates)
    lines = [
        line(
            name,
            "a new order every epoch, gathered, through grain; "
            + ("one core" if "processes" not in name else f"a core each, of {len(bench.cores)}"),
            "M images/s",
            results,
            "total",
            scale=1e-6,
        )
        for name, results in found.items()
    ]
    rates = {one.name: one.median for one in lines if one.values}
    remarks = [
        f"The set of {10 * count:,} images is random bytes in a .npy file that is mapped into "
        "memory; it is in the page cache when it is read."
    ]
    (Path(large[0])).unlink()
    return Section(TITLE, lines, remarks, {"million_images_per_second": rates})


def write_large(folder: Path, count: int, pixels: int) -> tuple[str, str]:
    """Write a set of random images and labels; return the paths of the two .npy files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, pixels)
    )
    for lo in range(0, count, PORTION):
        part = images[lo : lo + PORTION]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
    images.flush()
    np.save(folder / "labels.npy", rng.integers(0, 10, count).astype(np.uint8))
    return str(folder / "images.npy"), str(folder / "labels.npy")
