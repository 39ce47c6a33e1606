"""From the host to the devices: the inputs of each dispatch, sent one dispatch ahead."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from jax.sharding import Mesh

from trainer.data.dataset import Superbatch
from trainer.optimizers.schedules import Schedule
from trainer.parallel import mesh as meshes
from trainer.parallel.step import DispatchInputs
from trainer.tracking.goodput import PhaseTimer


def send(
    mesh: Mesh, schedule: Schedule, batch: Superbatch, first_step: int, seed: int = 0
) -> DispatchInputs:
    """Start copying K batches, and what else their steps need, to the devices; does not wait.

    The stop votes are missing: see `inputs`.

    Args:
        mesh: the devices.
        schedule: maps step numbers (K,) to learning rates (K,).
        batch: this process's rows of the K batches.
        first_step: the number of the first of the K steps, counted from 0.
        seed: of the random numbers that a task may draw.
    """
    numbers = np.arange(first_step, first_step + len(batch.mask))
    # Only a task that draws random numbers asks for the index of each example.
    seeds = None if batch.index is None else np.full(len(numbers), seed, np.uint32)
    values = (schedule(numbers), numbers.astype(np.int32), seeds)
    votes: Any = None  # inputs() adds them
    placed = meshes.place(meshes.batched(mesh), batch)
    return DispatchInputs(placed, votes, *meshes.place(meshes.replicated(mesh), values))


def inputs(mesh: Mesh, sent: DispatchInputs, stop_vote: bool = False) -> DispatchInputs:
    """Add this process's stop vote, and return what the training step takes; does not wait.

    The vote is sent last: batches are sent a dispatch ahead, and a stop must not come that late.
    """
    votes = np.full((len(sent.lrs), len(mesh.local_devices)), stop_vote, np.uint8)
    return sent._replace(stop_votes=meshes.place(meshes.batched(mesh), votes))


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
        self._ahead: DispatchInputs | None = None

    def take(self) -> DispatchInputs:
        """Return the inputs of the next dispatch, without votes; send them if that is not done.

        Raises:
            StopIteration: the stream has ended.
        """
        sent, self._ahead = self._ahead or self._send(), None
        return sent

    def send_ahead(self) -> None:
        """Send what `take` will return, unless it is sent or the stream has ended."""
        if self._ahead is None:
            with suppress(StopIteration):
                self._ahead = self._send()

    def _send(self) -> DispatchInputs:
        with self._timer.phase("data_wait"):
            batch = next(self._batches)
        with self._timer.phase("step"):
            sent = send(self._mesh, self._schedule, batch, self._next_step, self._seed)
        self._next_step += len(batch.mask)
        return sent
