"""What a dispatch consumes, on its way to the devices."""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from trainer import mesh as meshes
from trainer import step
from trainer.batch import Superbatch
from trainer.functional.schedules import Schedule


def send(mesh: Mesh, batch: Superbatch) -> Superbatch:
    """Start copying this process's rows of K batches to the devices; does not wait."""
    sent: Superbatch = meshes.place(meshes.batched(mesh), batch)
    return sent


def start(
    mesh: Mesh, schedule: Schedule, sent: Superbatch, steps: range, asked_to_stop: bool
) -> step.Feed:
    """Add what goes with K batches; does not wait.

    Args:
        mesh: the devices.
        schedule: step numbers -> learning rates, (K,) both.
        sent: the K batches.
        steps: the numbers of the K steps.
        asked_to_stop: this process's vote.
    """
    votes = np.full((len(steps), mesh.local_mesh.size), asked_to_stop, np.uint8)
    numbers = np.array(steps)
    lrs, counts = schedule(numbers), numbers.astype(np.int32)
    votes = meshes.place(meshes.batched(mesh), votes)
    lrs, counts = meshes.place(meshes.replicated(mesh), (lrs, counts))
    return step.Feed(sent, votes, lrs, counts)
