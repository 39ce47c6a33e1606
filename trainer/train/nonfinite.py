"""A diagnosis of a step whose loss or gradient was not finite, for nonfinite.json."""

from typing import Any

import jax
import numpy as np

from trainer.data.stream import Superbatches
from trainer.models import mlp
from trainer.parallel.step import TrainState
from trainer.tasks.classification import Objective, batch_gradients

_gradients = jax.jit(batch_gradients, static_argnums=2)


def diagnose(
    state: TrainState, objective: Objective, source: Superbatches, step: int
) -> dict[str, Any]:
    """Compute a step again, on one device, and report which parts of it are not finite.

    The state is that before the step, on the host; the step is counted from 0.

    Returns JSON: the step (counted from 1), the indices of the batch's examples in the training
    split, the mean loss, the norm of each layer's gradient, and the bound on the gradients that
    the training step checks.
    """
    batch, indices = source.global_batch(step)
    gradients, bound, sums = jax.device_get(_gradients(state.weights, batch, objective))
    # In float64, in which squares of finite float32 numbers do not overflow.
    norms = {
        f"layer {i} {name}": float(np.linalg.norm(leaf.ravel().astype(np.float64) / sums.examples))
        for i, name, leaf in mlp.leaves(gradients)
    }
    return {
        "step": step + 1,
        "examples": indices.tolist(),
        "loss": float(sums.loss / sums.examples),
        "gradient_norms": norms,
        "gradient_bound": float(bound / sums.examples),
        "weights_finite": all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(state.weights)),
    }
