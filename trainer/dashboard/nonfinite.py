"""A diagnosis of a step whose loss or gradient was not finite, for nonfinite.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer.data.stream import Superbatches
from trainer.job.errors import first_line
from trainer.job.files import write_json
from trainer.tasks.task import Task, Weights, batch_gradients, keys_of, named_leaves


def write_diagnosis(
    path: Path,
    weights: Weights,
    task: Task,
    source: Superbatches,
    step: int,
    seed: int,
    warn: Callable[[str], None],
) -> None:
    """Compute a step again, on one device, and write which parts of it are not finite.

    The weights are those before the step, on the host; the step is counted from 0; the seed is that
    of the random numbers. Where this cannot be done, `warn`: it must not hide why the run ends.

    The file has the step (counted from 1), the indices of the batch's examples in the training
    split, the mean loss, the norm of each gradient, and the bound on the gradients that the
    training step checks.
    """
    try:
        write_json(path, _diagnosis(weights, task, source, step, seed))
    except OSError as error:
        warn(f"{path} cannot be written ({error.strerror})")
    except jax.errors.JaxRuntimeError as error:  # one device has too little memory
        warn(f"{path} is not written: {first_line(error)}")


def _diagnosis(
    weights: Weights, task: Task, source: Superbatches, step: int, seed: int
) -> dict[str, Any]:
    batch, indices = source.global_batch(step)

    @jax.jit
    def gradients(weights: Any, batch: Any, seed: jax.Array, step: jax.Array) -> Any:
        keys = keys_of(task, seed, step, batch)
        return batch_gradients(task, weights, batch, keys)

    result = jax.device_get(gradients(weights, batch, np.uint32(seed), np.int32(step)))
    examples = result.sums[-1]
    # In float64, in which squares of finite float32 numbers do not overflow.
    norms = {
        path: float(np.linalg.norm(leaf.ravel().astype(np.float64) / examples))
        for path, leaf in named_leaves(result.gradients).items()
    }
    return {
        "step": step + 1,
        "examples": indices.tolist(),
        "loss": float(result.sums[0] / examples),
        "gradient_norms": norms,
        "gradient_bound": float(result.bound / examples),
        "weights_finite": all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(weights)),
    }
