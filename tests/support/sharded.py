"""A small state, sharded over the devices of all processes, and checkpoints of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from jax.sharding import NamedSharding

from trainer.checkpoint.shared import SharedCheckpoints
from trainer.checkpoint.store import Best, Checkpoints, Restored
from trainer.data.stream import Plan
from trainer.distributed.collectives import KeyValues
from trainer.parallel import sharding
from trainer.parallel.mesh import make_mesh, spread
from trainer.parallel.step import TrainState
from trainer.tracking.goodput import PhaseTimer
from trainer.train import resume
from trainer.train.writer import Writer

RECORD = {"meaning": {}, "note": [0.1 + 0.2]}


def make_state(seed: int) -> TrainState:
    """Return a state in numpy: some arrays divide over 4 or 8 devices, others do not."""
    rng = np.random.default_rng(seed)
    weights = [
        {"kernel": rng.normal(size=(24, 16)).astype(np.float32)},
        {"kernel": rng.normal(size=(3, 40)).astype(ml_dtypes.bfloat16)},
        {"bias": rng.normal(size=5).astype(np.float32)},
    ]
    velocities = jax.tree.map(lambda x: -np.asarray(x, np.float32), weights)
    return TrainState(weights, velocities, np.array(seed, np.int32))


def large_state(seed: int) -> TrainState:
    """Return 512 MiB in 64 arrays."""
    arrays = [np.full((2048, 1024), seed + i, np.float32) for i in range(32)]
    return TrainState(arrays, arrays, np.array(seed, np.int32))


Make = Callable[[int], TrainState]
TEMPLATE = jax.eval_shape(lambda: make_state(0))


def shardings(kind: str, devices: int | None = None, template: Any = TEMPLATE) -> TrainState:
    """Return shardings over the first devices of each process: parallel.shard_state, or "2d"."""
    mesh = make_mesh(devices, replicas=2 if kind == "2d" else None)
    placed: TrainState = sharding.of_state(template, mesh, "all" if kind == "2d" else kind)
    return placed


class Opened(NamedTuple):
    """The checkpoints of one folder, as one process has them."""

    checkpoints: Checkpoints | None
    writer: Writer
    state: Callable[[int], Any]  # seed -> a state on the devices
    restore: Callable[[Any], Restored | None]  # shardings -> the newest intact checkpoint
    warnings: list[str]

    def save(self, step: int) -> None:
        """Save make_state(step), and wait for it."""
        self.writer.save(step, self.state(step), {}, None)
        self.writer.finish()


@contextmanager
def opened(
    folder: Path,
    kind: str,
    devices: int | None = None,
    limit: int = 0,
    seconds: float = 60,
    make: Make = make_state,
    flush: Callable[[], None] = lambda: None,
) -> Iterator[Opened]:
    """Open the checkpoints of a folder, as a run whose state is sharded does."""
    warnings: list[str] = []
    template = jax.eval_shape(lambda: make(0))
    placed = shardings(kind, devices, template)

    def state(seed: int) -> Any:
        return spread(placed, make(seed))

    checkpoints = None
    if jax.process_index() == 0:
        best = Best("accuracy", largest=True)
        checkpoints = Checkpoints(folder, keep_last=9, keep_best=0, best=best, warn=warnings.append)

    def restore(target: Any) -> Restored | None:
        plan = Plan(10, 1, 100, 1)
        return resume.restore(checkpoints, folder, template, target, {}, plan, lambda _: None)

    with Writer(
        checkpoints
        if kind == "none"
        else SharedCheckpoints(folder, checkpoints, KeyValues, seconds),
        RECORD,
        flush=flush,
        max_failed_saves=limit,
        timer=PhaseTimer(),
        warn=warnings.append,
    ) as writer:
        yield Opened(checkpoints, writer, state, restore, warnings)


def assert_restored(restored: Restored | None, target: Any, step: int) -> None:
    """Check that this process has the bits of make_state(step), sharded as asked for."""
    assert restored is not None
    assert restored.step == step
    assert restored.record["note"] == RECORD["note"]

    def same(array: jax.Array, placed: NamedSharding, saved: Any) -> None:
        assert array.sharding == placed
        assert array.dtype == saved.dtype
        for shard in array.addressable_shards:
            assert np.asarray(shard.data).tobytes() == saved[shard.index].tobytes()

    jax.tree.map(same, restored.state, target, make_state(step))
