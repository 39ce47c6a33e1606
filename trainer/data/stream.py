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
import jax
import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Examples, Needs, Superbatch, bytes_of_one, size
from trainer.data.order import Mixture, permutation
from trainer.data.rows import Index, gather, small

BLOCK_BYTES = 4 << 20  # of examples; an element costs grain about 0.1 ms, whatever its size
FREED_BYTES = 256 << 20  # of freed memory, kept for the next blocks


class Plan(NamedTuple):
    """Which steps each dispatch covers: K at a time, never beyond the end of a span.

    A span is the epochs from one evaluation or checkpoint to the next. So a dispatch may do several
    epochs of a small data set.
    """

    steps_per_epoch: int
    steps_per_dispatch: int
    total_steps: int
    epochs_per_span: int = 1

    @property
    def steps_per_span(self) -> int:
        """Steps of a span; the last one of a run may be shorter."""
        return min(self.steps_per_epoch * self.epochs_per_span, self.total_steps)

    @property
    def _dispatches_per_span(self) -> int:
        return -(-self.steps_per_span // self.steps_per_dispatch)

    @property
    def dispatches(self) -> int:
        """Dispatches in the whole run."""
        return self.dispatch_of(self.total_steps - 1) + 1

    def steps(self, dispatch: int) -> range:
        """Return the steps of a dispatch, counted from 0 over the whole run."""
        span, chunk = divmod(dispatch, self._dispatches_per_span)
        first = span * self.steps_per_span
        lo = first + chunk * self.steps_per_dispatch
        hi = min(lo + self.steps_per_dispatch, first + self.steps_per_span, self.total_steps)
        return range(lo, hi)

    def dispatch_of(self, step: int) -> int:
        """Return the dispatch that performs a step."""
        span, inside = divmod(step, self.steps_per_span)
        return span * self._dispatches_per_span + inside // self.steps_per_dispatch


class Superbatches:
    """A sequence: item i is what dispatch i consumes, whoever asks and however often."""

    def __init__(
        self,
        examples: Examples,
        *,
        plan: Plan,
        global_batch_size: int,
        rows: slice,
        seed: int | None,
        first_step: int,
        needs: Needs = Needs(),  # noqa: B008 - immutable
        mixture: Mixture | None = None,
    ) -> None:
        """Describe the stream; nothing is read yet.

        Args:
            examples: what to train on.
            plan: which steps each dispatch covers.
            global_batch_size: examples a step, over all processes.
            rows: which rows of every global batch this process loads.
            seed: of the shuffling; None: the order of the files.
            first_step: where a resumed run continues, perhaps in the middle of a dispatch.
            needs: what the batches have besides the examples.
            mixture: the sets that the examples are of, where they have shares.
        """
        self._mixture = mixture
        self._examples, self._size, self._needs = examples, size(examples), needs
        self.plan, self._rows, self._seed = plan, rows, seed
        self._batch_size = global_batch_size
        self.first_step = first_step
        # Keyed by epoch: grain's threads may ask for the end of one and the start of the next.
        self._order = functools.lru_cache(2)(self._order_of)
        k = plan.steps_per_dispatch
        bytes_ = k * (rows.stop - rows.start) * bytes_of_one(examples)
        self.blocks = plan._replace(steps_per_dispatch=k * max(1, BLOCK_BYTES // max(1, bytes_)))

    def __getitem__(self, dispatch: int) -> Superbatch:
        """Gather the batches of one dispatch."""
        return self._gather(self.plan.steps(dispatch), self._rows)[0]

    def block(self, number: int) -> list[Superbatch]:
        """Gather the dispatches of one block at once, without the steps before the first one."""
        steps = self.blocks.steps(number)
        steps = range(max(steps.start, self.first_step), steps.stop)
        whole, _ = self._gather(steps, self._rows)
        first, last = map(self.plan.dispatch_of, (steps[0], steps[-1]))
        parts = []
        for covered in map(self.plan.steps, range(first, last + 1)):
            lo, hi = max(covered.start - steps.start, 0), covered.stop - steps.start
            parts.append(take(whole, slice(lo, hi)))
        return parts

    def global_batch(self, step: int) -> tuple[Superbatch, npt.NDArray[np.int64]]:
        """Return the whole batch of one step, without the leading dim K, and its examples' indices.

        The batch has fields (B, ...) and the mask (B,); the indices (examples,) are into the split.
        """
        superbatch, indices = self._gather(range(step, step + 1), slice(0, self._batch_size))
        batch = take(superbatch, 0)
        return batch, indices[0][batch.mask.astype(bool)]

    def _gather(self, steps: range, rows: slice) -> tuple[Superbatch, npt.NDArray[np.int64]]:
        """Return some steps, in some rows of the global batch.

        The indices (K, rows) of the examples come second. Where the last batch of an epoch is
        short, the mask is 0 and the index too.
        """
        epochs, number = np.divmod(np.array(steps), self.plan.steps_per_epoch)
        position = number[:, None] * self._batch_size + np.arange(rows.start, rows.stop)
        mask = position < self._size

        def at(position: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            # The steps may lie in several epochs, each with an order of its own.
            indices = np.where(mask, position, 0)
            for epoch in range(epochs[0], epochs[-1] + 1):
                of_epoch = slice(*np.searchsorted(epochs, (epoch, epoch + 1)))
                indices[of_epoch] = self._order(epoch)[indices[of_epoch]]
            indices[~mask] = 0
            return indices

        indices = at(position)
        index = indices.astype(np.int32) if self._needs.indices else None
        batches = Superbatch(self._take(indices), mask.astype(np.uint8), index)
        if self._needs.other:  # the example that comes half an epoch before or after
            other = at((position + self._size // 2) % self._size)
            batches = batches._replace(other=self._take(other))
        return batches, indices

    def _take(self, indices: Index) -> Examples:
        return {name: gather(array, indices) for name, array in self._examples.items()}

    def _order_of(self, epoch: int) -> Index:
        if self._mixture is not None:
            order = self._mixture.order(self._seed, epoch)
        elif self._seed is None:
            order = np.arange(self._size)
        else:
            order = permutation(self._seed, epoch, self._size)
        return small(order)


def take(batches: Superbatch, part: slice | int) -> Superbatch:
    """Return some of the K batches, or without the leading dim one of them."""
    taken: Superbatch = jax.tree.map(lambda array: array[part], batches)
    return taken


def iterate(source: Superbatches) -> Generator[Superbatch]:
    """Yield the superbatches from the first step on; one thread reads ahead."""
    _keep_freed_memory()
    first = source.blocks.dispatches
    if source.first_step < source.blocks.total_steps:  # else the run has ended
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
