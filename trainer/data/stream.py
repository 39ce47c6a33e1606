"""The training data as a stream of superbatches, each a pure function of (seed, index).

A superbatch is what one dispatch consumes: K global batches. An element of the grain pipeline is
a block of several superbatches, some megabytes, gathered with one `np.take`. This is 100 times
faster than one example an element, and the position of the stream is just the number of steps
done.
"""

import contextlib
import ctypes
import functools
from collections.abc import Generator
from typing import NamedTuple

import grain
import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Split, Superbatch

BLOCK_BYTES = 4 << 20  # of images; an element costs grain about 0.1 ms, whatever its size
FREED_BYTES = 256 << 20  # of freed memory, kept for the next blocks


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
            first_step: where a resumed run continues, perhaps in the middle of a dispatch.
        """
        self._split, self._plan, self._rows, self._seed = split, plan, rows, seed
        self._batch_size = global_batch_size
        self.first_step = first_step
        # Keyed by epoch: grain's threads may ask for the end of one and the start of the next.
        self._order = functools.lru_cache(2)(self._order_of)
        k = plan.steps_per_dispatch
        size = k * (rows.stop - rows.start) * split.images.shape[1]
        self.blocks = plan._replace(steps_per_dispatch=k * max(1, BLOCK_BYTES // max(1, size)))

    def __getitem__(self, dispatch: int) -> Superbatch:
        """Gather the batches of one dispatch."""
        return self._gather(self._plan.steps(dispatch), self._rows)[0]

    def block(self, number: int) -> list[Superbatch]:
        """Gather the dispatches of one block at once, without the steps before the first one."""
        steps = self.blocks.steps(number)
        steps = range(max(steps.start, self.first_step), steps.stop)
        whole, _ = self._gather(steps, self._rows)
        first, last = map(self._plan.dispatch_of, (steps[0], steps[-1]))
        parts = []
        for covered in map(self._plan.steps, range(first, last + 1)):
            lo, hi = max(covered.start - steps.start, 0), covered.stop - steps.start
            parts.append(Superbatch(*(array[lo:hi] for array in whole)))
        return parts

    def global_batch(self, step: int) -> tuple[Superbatch, npt.NDArray[np.int64]]:
        """Return the whole batch of one step, without the leading dim K, and its examples' indices.

        The batch has images (B, pixels), labels and mask (B,); the indices (examples,) are into the
        split.
        """
        batch, indices = self._gather(range(step, step + 1), slice(0, self._batch_size))
        return Superbatch(*(array[0] for array in batch)), indices[batch.mask.astype(bool)]

    def _gather(self, steps: range, rows: slice) -> tuple[Superbatch, npt.NDArray[np.int64]]:
        """Return some steps of one epoch, in some rows of the global batch.

        The indices (K, rows) of the examples come second. Where the last batch of the epoch is
        short, the mask is 0 and the index too.
        """
        epoch, first = divmod(steps.start, self._plan.steps_per_epoch)
        number = np.arange(first, first + len(steps))
        position = number[:, None] * self._batch_size + np.arange(rows.start, rows.stop)
        mask = position < len(self._split.images)
        indices = np.where(mask, self._order(epoch)[np.where(mask, position, 0)], 0)
        # mode="clip" skips a second pass over the indices, which are in range by construction.
        images = np.take(self._split.images, indices.ravel(), axis=0, mode="clip")
        images = images.reshape(*indices.shape, -1)
        return Superbatch(images, self._split.labels[indices], mask.astype(np.uint8)), indices

    def _order_of(self, epoch: int) -> npt.NDArray[np.int64]:
        size = len(self._split.images)
        return np.arange(size) if self._seed is None else permutation(self._seed, epoch, size)


def iterate(source: Superbatches) -> Generator[Superbatch]:
    """Yield the superbatches from the first step on; one thread reads ahead."""
    _keep_freed_memory()
    first = source.blocks.dispatch_of(source.first_step)
    blocks = grain.MapDataset.range(first, source.blocks.dispatches).map(source.block)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    iterator = iter(blocks.to_iter_dataset(options))
    try:
        for block in iterator:
            yield from block
    finally:
        iterator.close()


def _keep_freed_memory() -> None:
    """Let malloc keep the memory of one block for the next: new pages cost 13 % of the speed.

    Only glibc has these settings.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        # Older glibc refuses more than 32 MiB. Without the first setting, the second would only
        # switch off the adaptation of the first.
        if any(libc.mallopt(mmap_threshold, size) for size in (FREED_BYTES, 32 << 20)):
            libc.mallopt(trim_threshold, FREED_BYTES)
