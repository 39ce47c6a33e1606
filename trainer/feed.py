"""What a dispatch consumes, on its way to the devices."""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from trainer import mesh as meshes
from trainer import step
from trainer.batch import Superbatch
from trainer.functional.schedules import Schedule


def start(
    mesh: Mesh, schedule: Schedule, batch: Superbatch, steps: range, asked_to_stop: bool
) -> step.Feed:
    """Start copying K batches, and what goes with them, to the devices; does not wait.

    Args:
        mesh: the devices.
        schedule: step numbers -> learning rates, (K,) both.
        batch: this process's rows of the K batches.
        steps: the numbers of the K steps.
        asked_to_stop: this process's vote.
    """
    votes = np.full((len(steps), mesh.local_mesh.size), asked_to_stop, np.uint8)
    numbers = np.array(steps)
    lrs, counts = schedule(numbers), numbers.astype(np.int32)
    batch, votes = meshes.place(meshes.batched(mesh), (batch, votes))
    lrs, counts = meshes.place(meshes.replicated(mesh), (lrs, counts))
    return step.Feed(batch, votes, lrs, counts)
