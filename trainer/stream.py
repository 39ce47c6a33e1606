"""The training data as a stream of superbatches, each a pure function of (seed, index).

An element of the grain pipeline is what one dispatch consumes: K global batches, gathered with one
`np.take`. That is two orders of magnitude faster than one example an element, and an iterator's
whole state is the number of steps done.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from typing import NamedTuple

import grain
import numpy as np
import numpy.typing as npt

from trainer.datasets import Split


class Superbatch(NamedTuple):
    """K batches; `local_batch` is the part of the global batch that this process loads."""

    images: npt.NDArray[np.uint8]  # (K, local_batch, pixels)
    labels: npt.NDArray[np.uint8]  # (K, local_batch)
    mask: npt.NDArray[np.uint8]  # (K, local_batch): 1 for an example, 0 where a batch is short


class Plan(NamedTuple):
    """Which steps each dispatch covers: K at a time, never beyond an epoch's end."""

    steps_per_epoch: int
    steps_per_dispatch: int
    total_steps: int

    @property
    def dispatches_per_epoch(self) -> int:
        """Dispatches in an epoch, the shorter last one included."""
        return -(-self.steps_per_epoch // self.steps_per_dispatch)

    @property
    def dispatches(self) -> int:
        """Dispatches in the whole run."""
        return -(-self.total_steps // self.steps_per_epoch) * self.dispatches_per_epoch

    def steps(self, dispatch: int) -> range:
        """Return the steps of a dispatch, counted from 0 over the whole run."""
        epoch, chunk = divmod(dispatch, self.dispatches_per_epoch)
        first = epoch * self.steps_per_epoch
        lo = chunk * self.steps_per_dispatch
        hi = min(lo + self.steps_per_dispatch, self.steps_per_epoch)
        return range(first + lo, first + hi)

    def dispatch_of(self, step: int) -> int:
        """Return the dispatch that performs a step."""
        epoch, inside = divmod(step, self.steps_per_epoch)
        return epoch * self.dispatches_per_epoch + inside // self.steps_per_dispatch


def permutation(seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """Return the order of the examples in an epoch.

    A stable sort of raw Philox output: numpy promises the bits of its bit generators for ever, but
    not those of `Generator.permutation`.
    """
    bits = np.random.Philox(key=[seed, epoch]).random_raw(size)
    return np.argsort(bits, kind="stable")


class Superbatches:
    """A grain source: element i is what dispatch i consumes, whoever asks and however often."""

    def __init__(
        self,
        split: Split,
        *,
        plan: Plan,
        global_batch_size: int,
        rows: slice,
        seed: int | None,
        first_step: int,
    ) -> None:
        """Describe the stream; nothing is read yet.

        Args:
            split: the examples.
            plan: which steps each dispatch covers.
            global_batch_size: examples a step, over all processes.
            rows: which rows of every global batch this process loads.
            seed: of the shuffling; None: the order of the files.
            first_step: where a resumed run goes on; its first dispatch may begin late.
        """
        self._split = split
        self._plan = plan
        self._batch_size = global_batch_size
        self._rows = rows
        self._seed = seed
        self._first_step = first_step
        # Keyed by epoch: grain's threads may ask for the end of one and the start of the next.
        self._order = functools.lru_cache(2)(self._order_of)

    def __len__(self) -> int:
        """Return the number of dispatches in the whole run."""
        return self._plan.dispatches

    def __getitem__(self, dispatch: int) -> Superbatch:
        """Gather the batches of one dispatch."""
        steps = self._plan.steps(dispatch)
        first = max(steps.start, self._first_step)
        return self._gather(*self._indices(range(first, steps.stop), self._rows))

    def global_batch(self, step: int) -> tuple[Superbatch, npt.NDArray[np.int64]]:
        """Return the whole batch of one step, without the leading dim K, and its examples' indices.

        The batch has images (B, pixels), labels and mask (B,); the indices (examples,) are into the
        split.
        """
        indices, mask = self._indices(range(step, step + 1), slice(0, self._batch_size))
        batch = self._gather(indices, mask)
        return Superbatch(*(part[0] for part in batch)), indices[mask]

    def _gather(self, indices: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> Superbatch:
        # mode="clip" skips a second pass over the indices, which are in range by construction.
        images = np.take(self._split.images, indices.ravel(), axis=0, mode="clip")
        return Superbatch(
            images.reshape(*indices.shape, -1), self._split.labels[indices], mask.astype(np.uint8)
        )

    def _indices(
        self, steps: range, rows: slice
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return which examples some steps of one epoch take, in some rows of the global batch.

        Returns indices (K, rows) into the split, and a mask (K, rows) that is False where the last
        batch of the epoch is short (the index there is 0).
        """
        epoch = steps.start // self._plan.steps_per_epoch
        inside = np.arange(steps.start, steps.stop) - epoch * self._plan.steps_per_epoch
        row = np.arange(rows.start, rows.stop)
        position = inside[:, None] * self._batch_size + row
        mask = position < len(self._split.images)
        order = self._order(epoch)
        return np.where(mask, order[np.where(mask, position, 0)], 0), mask

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        size = len(self._split.images)
        return np.arange(size) if self._seed is None else permutation(self._seed, epoch, size)


def iterate(source: Superbatches, first_dispatch: int) -> Generator[Superbatch]:
    """Yield the superbatches from a dispatch on, read ahead by one thread."""
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    iterator.set_state({"next_index": first_dispatch})
    try:
        yield from iterator
    finally:
        iterator.close()
