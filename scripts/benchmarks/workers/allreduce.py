"""How long the processes of a run take to add up arrays: the constants of the model of scaling.

Started in several processes at once, which connect to each other as those of the trainer do.
"""

from __future__ import annotations

import os
import time
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from benchmarks import own
from trainer.distributed.connect import connect
from trainer.distributed.topology import resolve
from trainer.parallel import mesh as meshes


def measure(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Return the median seconds of an all-reduce of float32 arrays of these sizes.

    Args:
        sizes: numbers of elements.
        repeats: of each; all in one program, as in a scan of steps.
    """
    config = own.configuration()
    connect(resolve(config.cluster, os.environ), config.cluster, lambda: None, print)
    mesh = meshes.make_mesh(None)
    whole = PartitionSpec()

    def repeated(array: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            carry = lax.pcast(carry, meshes.AXIS, to="varying")
            return lax.psum(carry, meshes.AXIS) * np.float32(0.5), None

        return lax.scan(body, array, None, length=repeats)[0]

    program = jax.jit(jax.shard_map(repeated, mesh=mesh, in_specs=(whole,), out_specs=whole))
    seconds = []
    for size in sizes:
        placed = meshes.place(meshes.replicated(mesh), np.full(size, 1e-30, np.float32))
        jax.block_until_ready(program(placed))
        times = []
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(program(placed))
            times.append((time.perf_counter() - began) / repeats)
        seconds.append(float(np.median(times)))
    return {"seconds": seconds}
