"""From the host to the devices: the inputs of each dispatch, sent one dispatch ahead."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from trainer.data.dataset import Superbatch
from trainer.optimizers.schedules import Schedule
from trainer.parallel import mesh as meshes
from trainer.parallel.step import DispatchInputs
from trainer.tracking.goodput import PhaseTimer


class Dispatch(NamedTuple):
    """K steps whose inputs are on their way to the devices, all but the stop votes."""

    steps: range  # their numbers, counted from 0
    batch: Superbatch
    lrs: jax.Array  # (K,) float32
    step_numbers: jax.Array  # (K,) int32
    seeds: jax.Array | None = None  # (K,) uint32; None: the task draws no random numbers


def send(
    mesh: Mesh, schedule: Schedule, batch: Superbatch, first_step: int, seed: int = 0
) -> Dispatch:
    """Start copying K batches and their learning rates to the devices; does not wait.

    Args:
        mesh: the devices.
        schedule: maps step numbers (K,) to learning rates (K,).
        batch: this process's rows of the K batches.
        first_step: the number of the first of the K steps.
        seed: of the random numbers that a task may draw.
    """
    steps = range(first_step, first_step + len(batch.mask))
    numbers = np.array(steps)
    placed = meshes.place(meshes.batched(mesh), batch)
    values: tuple[Any, ...] = (schedule(numbers), numbers.astype(np.int32))
    if batch.index is not None:  # only a task that draws random numbers asks for it
        values += (np.full(len(steps), seed, np.uint32),)
    return Dispatch(steps, placed, *meshes.place(meshes.replicated(mesh), values))


def inputs(mesh: Mesh, dispatch: Dispatch, stop_vote: bool = False) -> DispatchInputs:
    """Add this process's stop vote, and return what the training step takes; does not wait.

    The vote is sent last: batches are sent a dispatch ahead, and a stop must not come that late.
    """
    votes = np.full((len(dispatch.steps), meshes.local_devices(mesh)), stop_vote, np.uint8)
    placed = meshes.place(meshes.batched(mesh), votes)
    return DispatchInputs(
        dispatch.batch, placed, dispatch.lrs, dispatch.step_numbers, dispatch.seeds
    )


class Feeder:
    """Sends the batches of a stream to the devices, at most one dispatch ahead."""

    def __init__(
        self,
        mesh: Mesh,
        schedule: Schedule,
        batches: Iterator[Superbatch],
        first_step: int,
        seed: int,
        timer: PhaseTimer,
    ) -> None:
        """Take over this process's rows of the batches from `first_step` on; send nothing yet."""
        self._mesh, self._schedule, self._batches = mesh, schedule, batches
        self._next_step, self._seed, self._timer = first_step, seed, timer
        self._ahead: Dispatch | None = None

    def take(self) -> Dispatch:
        """Return the next dispatch; sends it first, if that has not been done ahead.

        Raises:
            StopIteration: the stream has ended.
        """
        dispatch, self._ahead = self._ahead or self._send(), None
        return dispatch

    def send_ahead(self) -> None:
        """Send the dispatch that `take` will return, unless it is sent or the stream has ended."""
        if self._ahead is None:
            with suppress(StopIteration):
                self._ahead = self._send()

    def _send(self) -> Dispatch:
        with self._timer.phase("data_wait"):
            batch = next(self._batches)
        with self._timer.phase("step"):
            dispatch = send(self._mesh, self._schedule, batch, self._next_step, self._seed)
        self._next_step = dispatch.steps.stop
        return dispatch
