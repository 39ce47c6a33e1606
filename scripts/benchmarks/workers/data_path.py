"""The data path alone: the trainer's stream of superbatches, read as fast as it comes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.dataset import Split
from trainer.data.stream import Plan, Superbatches, iterate


def measure(
    images: str, labels: str, batch_size: int, k: int, steps: int, processes: int, cores: list[int]
) -> dict[str, Any]:
    """Return the images a second that this process gathers, from its first request on.

    Args:
        images: a .npy file of uint8 (N, pixels), mapped into memory.
        labels: a .npy file of uint8 (N,).
        batch_size: of a step, over all processes.
        k: steps a dispatch.
        steps: to read, across epochs, each with a new order.
        processes: that share the rows of a batch.
        cores: of the processor; every process is bound to one of them.
    """
    process = int(os.environ.get("JAX_PROCESS_ID", "0"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores[process % len(cores)]})
    split = Split(np.load(Path(images), mmap_mode="r"), np.load(Path(labels)))
    rows = batch_size // processes
    source = Superbatches(
        split,
        plan=Plan(-(-len(split.labels) // batch_size), k, steps),
        global_batch_size=batch_size,
        rows=slice(process * rows, (process + 1) * rows),
        seed=0,
        first_step=0,
    )
    examples = read = 0
    began = time.perf_counter()
    for batch in iterate(source):
        examples += int(batch.mask.sum())
        read += len(batch.labels)
        if read >= steps:
            break
    return {"images_per_second": examples / (time.perf_counter() - began)}
