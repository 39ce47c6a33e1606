"""The data path alone: by K, by processes, for a set ten times as large, for text and pictures."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.bench import Bench
from benchmarks.figures import Result, Section, line
from benchmarks.workers.rival import read
from trainer.selftest.children import Layout

TITLE = "The data path alone, batch 64"
TIMES = 10  # as many images in the large set
PICTURES = 5_000  # in PNG files


def measure(bench: Bench) -> Section:
    """Read superbatches as fast as they come; each process is bound to one core."""
    ks = [1, 32] if bench.quick else [1, 8, 32, 67, 256]
    counts = [2] if bench.quick else [2, 4]
    count = bench.machine["dataset"]["train_examples"]
    large = TIMES * count
    folder = bench.scratch / "large"
    write_large(bench, folder)
    small, mapped = str(bench.arrays), str(folder)
    text, pictures = write_others(bench)

    def job(source: str | list[str], k: int, processes: int = 1) -> partial[Result]:
        return partial(
            bench.worker,
            "parts.stream",
            layout=Layout(processes, 1),
            source=source,
            batch_size=64,
            k=k,
            steps=(300_000 if bench.quick else 1_200_000) // 64,
            processes=processes,
            cores=bench.cores,
        )

    jobs = {f"{count:,} images, K={k}": job(small, k) for k in ks}
    jobs |= {f"{large:,} images, K={k}": job(mapped, k) for k in (1, 32)}
    jobs |= {f"{count:,} images, K=32, {n} processes": job(small, 32, n) for n in counts}
    jobs |= {"windows of a text, K=32": job(text, 32)}
    jobs |= {f"{PICTURES:,} pictures, K=32": job(pictures, 32)}

    def total(result: Result) -> float:
        return sum(one["examples_per_second"] for one in (result, *result["each"]))

    lines = []
    for name, results in bench.interleave(jobs).items():
        cores = f"a core each, of {len(bench.cores)}" if "processes" in name else "one core"
        includes = f"a new order every epoch, gathered, through grain; {cores}"
        lines.append(line(name, includes, "M examples/s", results, total, scale=1e-6))
    remark = (
        f"The {large:,} images are {TIMES} copies of the set in a .npy file that is mapped into "
        "memory; it is in the page cache when it is read. The windows are of as many bytes as an "
        "image, of a file of 64 MB; the pictures are PNG files, decoded once before."
    )
    shutil.rmtree(folder)
    return Section(TITLE, lines, [remark])


def write_others(bench: Bench) -> tuple[list[str], list[str]]:
    """Write a text and a folder of pictures; return the options that name them."""
    images = read(bench.arrays, "train")
    pixels = images["image"][:PICTURES]
    text, folder = bench.scratch / "text", bench.scratch / "pictures"
    text.write_bytes(pixels.tobytes() * (64_000_000 // pixels.nbytes))
    for number, (image, label) in enumerate(zip(pixels, images["label"], strict=False)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{number}.png")
    window = f"data.window={pixels[0].size - 1}"
    cache = f"data.cache_dir={bench.scratch / 'cache'}"
    return (
        ["data=text", f"data.root={text}", window, cache],
        ["data=images", f"data.root={folder}", "data.channels=1", cache],
    )


def write_large(bench: Bench, folder: Path) -> None:
    """Write the training set, ten times over."""
    folder.mkdir()
    for field, array in read(bench.arrays, "train").items():
        shape = (TIMES * len(array), *array.shape[1:])
        file = folder / f"train_{field}.npy"
        copies = np.lib.format.open_memmap(file, "w+", array.dtype, shape)
        copies.reshape(TIMES, *array.shape)[:] = array
        copies.flush()
