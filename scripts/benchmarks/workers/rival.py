"""What the rivals share: the data, and the timed loop. Needs only NumPy."""

from __future__ import annotations

import itertools
import math
import runpy
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.workers import LeftOut

# model.precision in the words of each library: all multiply as the trainer does.
TORCH_PRECISION = {"float32": "highest", "tf32": "high", "bfloat16": "medium"}
JAX_PRECISION = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


def read(folder: str, split: str) -> dict[str, npt.NDArray[Any]]:
    """Return field -> array (N, ...) of a split: the files SPLIT_FIELD.npy, mapped into memory."""
    files = sorted(Path(folder).glob(f"{split}_*.npy"))
    return {file.stem.removeprefix(f"{split}_"): np.load(file, mmap_mode="r") for file in files}


class Job(NamedTuple):
    """What every rival trains."""

    arrays: str  # the folder of the files that `read` reads
    batch_size: int
    warmup_steps: int  # before the clock starts
    steps: int  # timed
    file: str  # with the functions `flax` and `pytorch`, which make the model
    options: Mapping[str, Any]  # the argument of these functions
    optim: Mapping[str, Any]  # in optax's words; SGD's where there is a momentum, else AdamW's
    precision: str = "tf32"  # of the matrix products; a CPU multiplies float32 only

    def examples(self) -> dict[str, npt.NDArray[Any]]:
        """Return field -> training examples (N, ...), in memory."""
        return {name: np.array(array) for name, array in read(self.arrays, "train").items()}

    def rivals(self) -> dict[str, Any]:
        """Return what `file` defines."""
        return runpy.run_path(self.file)

    def slices(self, count: int, whole: bool = False) -> Iterator[slice]:
        """Yield the slices of batches without end, the short last one of an epoch unless `whole`.

        They start `warmup_steps` before the end of an epoch, so that a jitted step is compiled for
        the short batch, too, before the clock starts.
        """
        end = count - count % self.batch_size if whole else count
        epoch = [slice(lo, lo + self.batch_size) for lo in range(0, end, self.batch_size)]
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
