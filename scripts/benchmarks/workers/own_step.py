"""The trainer's own program with its data on the device already: no stream, no metrics, no loop."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from benchmarks import answer, own


def measure(
    arrays: str, batch_size: int, k: int, dispatches: int, overrides: list[str]
) -> dict[str, Any]:
    """Run dispatches, each started while the one before is running, and return a step's seconds.

    Args:
        arrays: the folder of the data set.
        batch_size: of a step.
        k: steps a dispatch.
        dispatches: that are timed, after one that is not.
        overrides: options of another value.

    Returns seconds_per_step, the median over the dispatches, and jitter_seconds: how much the time
    of a single step would have to vary to make dispatches vary as they do.
    """
    config = own.configuration(
        *overrides, f"train.global_batch_size={batch_size}", f"train.steps_per_dispatch={k}"
    )
    dataset = own.load_arrays(arrays)
    mesh, made = own.make(config, dataset, 1)
    state = own.first_state(made, mesh)
    batch = own.first_batches(dataset, k, batch_size)
    feeds = own.feed(mesh, batch)
    numbers = [
        jax.device_put(np.arange(i * k, (i + 1) * k, dtype=np.int32), feeds.steps.sharding)
        for i in range(dispatches + 1)
    ]
    ends, pending = [], None
    for steps in [*numbers, None]:
        running = pending
        if steps is not None:
            state, pending = made.train_step(state, feeds._replace(steps=steps))
        if running is not None:
            assert jax.device_get(running).finite.all()
            ends.append(time.perf_counter())
    assert int(state.step) == k * (dispatches + 1)  # the guard would have stood still otherwise
    times = np.diff(ends) / k
    return {
        "seconds_per_step": float(np.median(times)),
        "jitter_seconds": float(np.std(times) * np.sqrt(k)),
    }


if __name__ == "__main__":
    answer.serve(measure)
