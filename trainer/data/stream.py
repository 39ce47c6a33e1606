"""The training data as a stream of superbatches, each a pure function of (seed, index).

A superbatch is what one dispatch consumes: K global batches. An element of the grain pipeline is
some megabytes of them, gathered with one `np.take`. That is two orders of magnitude faster than one
example an element, and where a stream is follows from the number of steps done.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Generator
from typing import NamedTuple

import grain
import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Split, Superbatch

BLOCK_BYTES = 4 << 20  # of images; an element costs grain some 0.1 ms, whatever its size
KEPT_BYTES = 256 << 20  # of freed memory, for the next blocks


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

    The rank of raw Philox output, without its lowest bits: numpy promises the bits of its bit
    generators for ever, but not those of `Generator.permutation`. The index takes the place of
    those bits, so that equal ones keep their order and plain numbers are sorted, twice as fast.
    """
    bits = np.uint64(size.bit_length())
    raw = np.random.Philox(key=[seed, epoch]).random_raw(size)
    keys = np.sort((raw >> bits << bits) | np.arange(size, dtype=np.uint64))
    return (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


class Superbatches:
    """A sequence: item i is what dispatch i consumes, whoever asks and however often."""

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
        self.first_step = first_step
        # Keyed by epoch: grain's threads may ask for the end of one and the start of the next.
        self._order = functools.lru_cache(2)(self._order_of)

    def __getitem__(self, dispatch: int) -> Superbatch:
        """Gather the batches of one dispatch."""
        return self.gather(self._plan.steps(dispatch))[0]

    def plan_of_blocks(self) -> Plan:
        """Return a plan whose dispatches are several of ours: some megabytes of images each."""
        k, rows = self._plan.steps_per_dispatch, self._rows.stop - self._rows.start
        size = k * rows * self._split.images.shape[1]
        return self._plan._replace(steps_per_dispatch=k * max(1, BLOCK_BYTES // max(1, size)))

    def gather(self, steps: range) -> list[Superbatch]:
        """Gather some steps of one epoch at once, cut into dispatches.

        Steps before the first one are left out, but one at least has to remain.
        """
        steps = range(max(steps.start, self.first_step), steps.stop)
        whole = self._gather(*self._indices(steps, self._rows))
        dispatches = range(
            self._plan.dispatch_of(steps.start), self._plan.dispatch_of(steps.stop - 1) + 1
        )
        cut = []
        for covered in map(self._plan.steps, dispatches):
            lo, hi = max(covered.start - steps.start, 0), covered.stop - steps.start
            cut.append(Superbatch(*(part[lo:hi] for part in whole)))
        return cut

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


class _Blocks:
    """A grain source: element i is several dispatches in a row, all of one epoch."""

    def __init__(self, source: Superbatches) -> None:
        self._source = source
        self._plan = source.plan_of_blocks()
        self.first = self._plan.dispatch_of(source.first_step)

    def __len__(self) -> int:
        """Return the number of blocks in the whole run."""
        return self._plan.dispatches

    def __getitem__(self, block: int) -> list[Superbatch]:
        """Gather one block."""
        return self._source.gather(self._plan.steps(block))


def iterate(source: Superbatches) -> Generator[Superbatch]:
    """Yield the superbatches from the first step on, read ahead by one thread."""
    _keep_freed_memory()
    blocks = _Blocks(source)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    iterator = iter(grain.MapDataset.source(blocks)[blocks.first :].to_iter_dataset(options))
    try:
        for block in iterator:
            yield from block
    finally:
        iterator.close()


def _keep_freed_memory() -> None:
    """Let malloc give the memory of one block to the next: new pages cost as much as the gather.

    Only glibc can be told; elsewhere nothing changes but the speed.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        # Older glibc takes no more than 32 MiB, and refuses all else. Without the first, the second
        # would only end its own adaptation.
        if any(libc.mallopt(mmap_threshold, size) for size in (KEPT_BYTES, 32 << 20)):
            libc.mallopt(trim_threshold, KEPT_BYTES)
