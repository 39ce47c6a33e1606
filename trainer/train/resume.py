"""Where a run begins: at its newest intact checkpoint, or at freshly drawn weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from trainer.checkpoint.store import Checkpoints, Restored
from trainer.config.fingerprint import differences
from trainer.data.stream import Plan
from trainer.distributed import collectives
from trainer.job.errors import ConfigError
from trainer.models import mlp
from trainer.parallel import mesh, step
from trainer.train.progress import State as ProgressState


class Start(NamedTuple):
    """Where training begins."""

    state: step.TrainState  # on every device
    step: int | None  # of the checkpoint; None: there was none
    progress: ProgressState | None
    record: Mapping[str, Any]  # of the checkpoint, on process 0; else empty


def start(
    init_weights: Callable[[jax.Array], mlp.Weights],
    seed: int,
    devices: Mesh,
    checkpoints: Checkpoints | None,
    meant: Mapping[str, Any],
    plan: Plan,
) -> Start:
    """Restore the newest intact checkpoint, or draw the weights.

    Args:
        init_weights: draws them from a key.
        seed: of that key.
        devices: that will hold the state.
        checkpoints: of the run, on process 0; None on the others, which are told.
        meant: the meaning of the configuration.
        plan: of the training.

    Raises:
        ConfigError: the run was begun with a configuration of another meaning, or has done more
            steps than the plan has.
        DataError: there are checkpoints, and none is intact.
        ReadError, SaveError: the storage does not let them be read, or a damaged one be renamed.
    """
    key = jax.random.PRNGKey(seed)
    template = jax.eval_shape(partial(step.new_state, init_weights), key)

    def restore() -> Restored | None:
        if checkpoints is None:
            return None
        recorded = checkpoints.newest_record()
        if recorded is not None and (changed := differences(recorded["meaning"], meant)):
            told = "\n  ".join(changed)
            if "train.epochs:" in told:
                told += (
                    "\nUnder all schedules but constant the learning rate of every step depends on "
                    "train.epochs."
                )
            raise ConfigError(
                f"{checkpoints.directory.parent} was begun with another configuration, and cannot "
                f"go on with this one:\n  {told}\nGive these options as they were, or begin "
                "another run with run.name=NAME"
            )
        restored = checkpoints.restore(template)
        if restored is not None and restored.step > plan.total_steps:
            raise ConfigError(
                f"train.epochs={plan.total_steps // plan.steps_per_epoch}: "
                f"{checkpoints.directory.parent} has done {restored.step / plan.steps_per_epoch:g} "
                "epochs: give at least that many, or begin another run with run.name=NAME"
            )
        return restored

    restored = collectives.together(restore)
    known = restored and {"step": restored.step, "progress": restored.record["progress"]}
    found = collectives.share(lambda: known)[0]
    if found is None:
        return Start(step.init_state(init_weights, key, devices), None, None, {})
    if restored is not None:
        host = restored.state
    else:
        host = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    state = mesh.place(mesh.replicated(devices), collectives.broadcast(host))
    record = restored.record if restored is not None else {}
    return Start(state, found["step"], found["progress"], record)
