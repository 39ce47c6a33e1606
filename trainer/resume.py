"""Where a run begins: at its newest intact checkpoint, or at freshly drawn weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from trainer import cluster, mesh, model, step
from trainer.checkpoint import Checkpoints
from trainer.progress import State as ProgressState


class Start(NamedTuple):
    """Where training begins."""

    state: step.TrainState  # on every device
    step: int | None  # of the checkpoint; None: there was none
    progress: ProgressState | None


def start(
    init_weights: Callable[[jax.Array], model.Weights],
    seed: int,
    devices: Mesh,
    checkpoints: Checkpoints | None,
) -> Start:
    """Restore the newest intact checkpoint, or draw the weights.

    Args:
        init_weights: draws them from a key.
        seed: of that key.
        devices: that will hold the state.
        checkpoints: of the run, on process 0; None on the others, which are told.

    Raises:
        DataError: there are checkpoints, and none is intact.
    """
    key = jax.random.PRNGKey(seed)
    template = jax.eval_shape(partial(step.new_state, init_weights), key)
    restored = checkpoints.restore(template) if checkpoints is not None else None
    found = restored and {"step": restored.step, "progress": restored.record["progress"]}
    found = json.loads(cluster.broadcast_text(json.dumps(found)))
    if found is None:
        return Start(step.init_state(init_weights, key, devices), None, None)
    if restored is not None:
        host = restored.state
    else:
        host = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    if jax.process_count() > 1:
        host = multihost_utils.broadcast_one_to_all(host)
    return Start(mesh.place(mesh.replicated(devices), host), found["step"], found["progress"])
