"""What the compiled training step needs of the device's memory, and what was used at most."""

from __future__ import annotations

from typing import Any

import jax

from benchmarks import answer, own


def measure(arrays: str, batch_size: int, k: int, overrides: list[str]) -> dict[str, Any]:
    """Compile and run a dispatch; return bytes by the compiler's account, and by the device's.

    Returns arguments, outputs, aliased (outputs that lie in the place of arguments) and temporary,
    as the compiler planned them; peak, as the device counted it (None where it does not count).
    """
    config = own.configuration(
        *overrides, f"train.global_batch_size={batch_size}", f"train.steps_per_dispatch={k}"
    )
    dataset = own.load_arrays(arrays)
    mesh, made = own.make(config, dataset, 1)
    state = own.first_state(made, mesh)
    batch = own.first_batches(dataset, k, batch_size)
    feed = own.feed(mesh, batch)
    compiled = made.train_step.lower(state, feed).compile()
    planned = compiled.memory_analysis()
    jax.block_until_ready(compiled(state, feed))
    statistics = jax.devices()[0].memory_stats() or {}
    return {
        "arguments": planned.argument_size_in_bytes,
        "outputs": planned.output_size_in_bytes,
        "aliased": planned.alias_size_in_bytes,
        "temporary": planned.temp_size_in_bytes,
        "peak": statistics.get("peak_bytes_in_use"),
    }


if __name__ == "__main__":
    answer.serve(measure)
