"""What a dispatch consumes, on its way to the devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from trainer.data.dataset import Superbatch
from trainer.functional.schedules import Schedule
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.tracking.goodput import PhaseTimer


class Sent(NamedTuple):
    """What is known of a dispatch beforehand, on its way to the devices."""

    numbers: range  # of its K steps
    batch: Superbatch
    lrs: jax.Array
    steps: jax.Array


def send(mesh: Mesh, schedule: Schedule, batch: Superbatch, first_step: int) -> Sent:
    """Start copying K batches, and what goes with them, to the devices; does not wait.

    Args:
        mesh: the devices.
        schedule: step numbers -> learning rates, (K,) both.
        batch: this process's rows of the K batches.
        first_step: the number of the first of the K steps.
    """
    numbers = range(first_step, first_step + len(batch.labels))
    steps = np.array(numbers)
    placed = meshes.place(meshes.batched(mesh), batch)
    lrs, counts = meshes.place(meshes.replicated(mesh), (schedule(steps), steps.astype(np.int32)))
    return Sent(numbers, placed, lrs, counts)


def start(mesh: Mesh, sent: Sent, asked_to_stop: bool) -> step.Feed:
    """Add this process's vote, and return what the dispatch consumes; does not wait."""
    votes = np.full((len(sent.numbers), mesh.local_mesh.size), asked_to_stop, np.uint8)
    placed = meshes.place(meshes.batched(mesh), votes)
    return step.Feed(sent.batch, placed, sent.lrs, sent.steps)


class Feeder:
    """Sends the batches of a stream to the devices, one dispatch ahead where asked to."""

    def __init__(
        self,
        mesh: Mesh,
        schedule: Schedule,
        batches: Iterator[Superbatch],
        first_step: int,
        timer: PhaseTimer,
    ) -> None:
        """Describe what is sent; nothing is yet.

        Args:
            mesh: the devices.
            schedule: as `send` takes it.
            batches: this process's rows, a superbatch a dispatch.
            first_step: the number of the first step.
            timer: of the time.
        """
        self._mesh, self._schedule, self._batches = mesh, schedule, batches
        self._step, self._timer = first_step, timer
        self._ahead: Sent | None = None

    def take(self) -> Sent:
        """Return what the next dispatch needs, on its way at least.

        Raises:
            StopIteration: the stream has ended.
        """
        sent, self._ahead = self._ahead or self._send(), None
        return sent

    def read_ahead(self) -> None:
        """Send what will be taken next, unless that is done or the stream has ended."""
        if self._ahead is None:
            with suppress(StopIteration):
                self._ahead = self._send()

    def _send(self) -> Sent:
        with self._timer.phase("data_wait"):
            batch = next(self._batches)
        with self._timer.phase("step"):
            sent = send(self._mesh, self._schedule, batch, self._step)
        self._step = sent.numbers.stop
        return sent
