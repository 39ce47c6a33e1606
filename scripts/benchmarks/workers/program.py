"""The trainer's step without its loop: its speed, its memory, and what it sends."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from benchmarks import hlo, own


def speed(dispatches: int, **arguments: Any) -> dict[str, Any]:
    """Run dispatches one after the other, with the data on the device: no stream, no metrics.

    Returns seconds_per_step, the median over the dispatches, and jitter_seconds: how much the time
    of a single step would have to vary to make dispatches vary as they do.
    """
    program = own.program(**arguments)
    seconds = own.seconds_per_step(program.made.train_step, program.state, program.feed, dispatches)
    return {
        "seconds_per_step": float(np.median(seconds)),
        "jitter_seconds": float(np.std(seconds) * np.sqrt(len(program.feed.lrs))),
    }


def memory(**arguments: Any) -> dict[str, Any]:
    """Compile and run a dispatch; return bytes. The arguments are those of own.program.

    Returns arguments, outputs, aliased (outputs that lie in the place of arguments) and temporary,
    as the compiler planned them; peak, as the device counted it (None where it does not count).
    """
    program = own.program(**arguments)
    compiled = program.made.train_step.lower(program.state, program.feed).compile()
    planned = compiled.memory_analysis()
    jax.block_until_ready(compiled(program.state, program.feed))
    statistics = jax.devices()[0].memory_stats() or {}
    return {
        "arguments": planned.argument_size_in_bytes,
        "outputs": planned.output_size_in_bytes,
        "aliased": planned.alias_size_in_bytes,
        "temporary": planned.temp_size_in_bytes,
        "peak": statistics.get("peak_bytes_in_use"),
    }


def traffic(devices: list[int]) -> dict[str, Any]:
    """Compile two steps for each number of devices; return {"counts": {devices: of one step}}.

    The devices are simulated and nothing is run: XLA_FLAGS has to name as many before jax starts.
    """
    jax.config.update("jax_platforms", "cpu")  # also on a machine with GPUs
    counts = {}
    for number in devices:
        made, state, feed = own.abstract(number, 64 * number)
        began = time.perf_counter()
        lowered = made.train_step.lower(state, feed)
        traced = time.perf_counter()
        compiled = lowered.compile()
        counts[str(number)] = {
            **hlo.traffic(compiled.as_text())._asdict(),
            "weights": sum(x.size for x in jax.tree.leaves(state.weights)),
            "trace_seconds": traced - began,
            "compile_seconds": time.perf_counter() - traced,
        }
    return {"counts": counts}
