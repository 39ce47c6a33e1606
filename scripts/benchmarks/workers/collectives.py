"""Compiles the trainer's step ahead of time for many devices, and counts what a step sends.

The devices are simulated and nothing is run: XLA_FLAGS=--xla_force_host_platform_device_count=N
has to be set before jax starts. On a machine with GPUs this describes the CPU's program, so it is
asked to use that platform.
"""

from __future__ import annotations

import time
from typing import Any

import jax

jax.config.update("jax_platforms", "cpu")

from benchmarks import answer, hlo, own  # noqa: E402 (the platform comes first)


def count(devices: int, local_batch: int, k: int, overrides: list[str]) -> dict[str, Any]:
    """Compile K steps for some devices, and return the traffic of one step."""
    batch_size = devices * local_batch
    config = own.configuration(
        *overrides, f"train.global_batch_size={batch_size}", f"train.steps_per_dispatch={k}"
    )
    dataset = own.empty_dataset()
    mesh, made = own.make(config, dataset, devices)
    state, feed = own.shapes(made, mesh, k, batch_size, dataset.train.images.shape[1])
    began = time.perf_counter()
    lowered = made.train_step.lower(state, feed)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - traced
    found = hlo.traffic(compiled.as_text())
    return {
        **found._asdict(),
        "weights": sum(x.size for x in jax.tree.leaves(state.weights)),
        "trace_seconds": traced - began,
        "compile_seconds": seconds,
    }


def measure(
    devices: list[int], local_batch: int = 64, k: int = 2, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Return {"counts": {devices: traffic and seconds}}."""
    counts = {str(n): count(n, local_batch, k, overrides or []) for n in devices}
    return {"counts": counts}


if __name__ == "__main__":
    answer.serve(measure)
