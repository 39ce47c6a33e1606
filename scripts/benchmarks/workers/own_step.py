"""The trainer's own program with its data on the device already: no stream, no metrics, no loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import answer, own


def measure(
    arrays: str, batch_size: int, k: int, dispatches: int, overrides: list[str]
) -> dict[str, Any]:
    """Run dispatches one after the other, and return the seconds of a step.

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
    feeds = own.feed(mesh, own.first_batches(dataset, k, batch_size))
    state = own.first_state(made, mesh)
    seconds = own.seconds_per_step(made.train_step, state, feeds, dispatches)
    return {
        "seconds_per_step": float(np.median(seconds)),
        "jitter_seconds": float(np.std(seconds) * np.sqrt(k)),
    }


if __name__ == "__main__":
    answer.serve(measure)
