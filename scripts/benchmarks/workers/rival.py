"""What the rivals share: the data, and the timed loop. Needs only NumPy."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.workers import LeftOut

LR, MOMENTUM = 0.05, 0.9  # with Nesterov's form
# model.precision in the words of each library: all multiply as the trainer does.
TORCH_PRECISION = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
JAX_PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


class Job(NamedTuple):
    """What every rival trains."""

    arrays: str  # the folder of train_images.npy and train_labels.npy
    sizes: list[int]  # of the layers, from pixels to classes
    batch_size: int
    warmup_steps: int  # before the clock starts
    steps: int  # timed
    mean: float  # of the pixels
    std: float  # of the pixels
    precision: str  # of the matrix products, as model.precision names it

    def load(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Return the images (N, pixels) and the labels (N,)."""
        folder = Path(self.arrays)
        return np.load(folder / "train_images.npy"), np.load(folder / "train_labels.npy")

    def slices(self, count: int) -> Iterator[slice]:
        """Yield the slices of batches without end, the short last one of an epoch included.

        They start `warmup_steps` before the end of an epoch, so that a jitted step is compiled for
        the short batch, too, before the clock starts.
        """
        epoch = [slice(lo, lo + self.batch_size) for lo in range(0, count, self.batch_size)]
        first = -self.warmup_steps % len(epoch)
        return itertools.chain(epoch[first:], itertools.cycle(epoch))

    def seconds_per_step(
        self, step: Callable[[Any], Any], batches: Iterator[Any], fetch: Callable[[Any], float]
    ) -> float:
        """Train by `step`, whose loss `fetch` waits for; return the seconds of one step."""

        def train(count: int) -> float:
            began = time.perf_counter()
            for batch in itertools.islice(batches, count):
                loss = step(batch)
            value = fetch(loss)
            if not math.isfinite(value):
                raise LeftOut(f"the loss is {value}")
            return time.perf_counter() - began

        train(self.warmup_steps)
        return train(self.steps) / self.steps
