"""What is known of a step whose loss or gradient was not finite."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from trainer.data.stream import Superbatches
from trainer.models import mlp
from trainer.parallel import step
from trainer.parallel.gradients import of_batch
from trainer.tasks.classification import Objective

_gradients = jax.jit(of_batch, static_argnums=2)


def diagnose(
    state: step.TrainState, objective: Objective, source: Superbatches, number: int
) -> dict[str, Any]:
    """Compute a step again, on one device, to tell what was not finite in it.

    Args:
        state: on the host, before the step.
        objective: of the run.
        source: of the batches; any process's.
        number: of the step, counted from 0.

    Returns:
        JSON: the step (counted from 1), the indices of the batch's examples in the training split,
        the mean loss, the norm of the gradient of each layer, and the bound on its elements that
        the step looks at.
    """
    batch, indices = source.global_batch(number)
    gradients, bound, sums = jax.device_get(_gradients(state.weights, batch, objective))
    norms = {
        f"layer {i} {name}": float(np.linalg.norm(leaf.ravel() / sums.examples))
        for i, name, leaf in mlp.leaves(gradients)
    }
    return {
        "step": number + 1,
        "examples": indices.tolist(),
        "loss": float(sums.loss / sums.examples),
        "gradient_norms": norms,
        "gradient_bound": float(bound / sums.examples),
        "weights_finite": all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(state.weights)),
    }
