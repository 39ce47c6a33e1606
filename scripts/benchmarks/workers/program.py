"""The trainer's step without its loop: its speed and its memory."""

import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from benchmarks.workers import rival
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.dataset import Dataset, Superbatch, size
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.train import programs as of_run
from trainer.train.feed import inputs, send


class Program(NamedTuple):
    """A training step on one device, and what it needs."""

    config: Config
    dataset: Dataset
    mesh: Mesh
    programs: of_run.Programs
    state: step.TrainState  # before the first step
    feed: step.DispatchInputs  # of one dispatch


def configuration(*overrides: str) -> Config:
    """Return the options of `+experiment=mlp` with some of another value."""
    return compose(["+experiment=mlp", *overrides])[0].config


def prepare(arrays: str, batch_size: int, k: int, overrides: list[str]) -> Program:
    """Build the trainer's step, with the data of one dispatch of K steps on the device.

    `arrays` is the folder to which the worker `parts.machine` has written the data set.
    """
    shape = f"train.global_batch_size={batch_size}", f"train.steps_per_dispatch={k}"
    config = configuration(*overrides, *shape)
    train = rival.read(arrays, "train")
    dataset = Dataset("arrays", train, rival.read(arrays, "test"))
    mesh = meshes.make_mesh(1)
    programs = of_run.make_programs(config, dataset, mesh)
    # K full batches in file order, from the start again where the set is too small.
    index = np.arange(k * batch_size).reshape(k, batch_size) % size(train)
    examples = {field: array[index] for field, array in train.items()}
    needs, mask = programs.task.needs, np.ones(index.shape, np.uint8)
    batch = Superbatch(
        examples,
        mask,
        index.astype(np.int32) if needs.indices else None,
        examples if needs.other else None,
    )
    lrs = np.full(k, 0.01, np.float32)
    feed = jax.block_until_ready(inputs(mesh, send(mesh, lambda _: lrs, batch, 0), False))
    state = step.init_state(programs.task, programs.update, jax.random.key(0), mesh)
    return Program(config, dataset, mesh, programs, state, feed)


def seconds_per_step(
    train_step: step.TrainStep, state: step.TrainState, feed: step.DispatchInputs, dispatches: int
) -> npt.NDArray[np.float64]:
    """Run dispatches, each started while the one before is running, as the loop does.

    The state, before the first step, is donated; all dispatches take the batches of `feed`. Returns
    the seconds of a step in each of the dispatches but an untimed first one.
    """
    k = len(feed.lrs)
    numbers = [
        jax.device_put(np.arange(i * k, (i + 1) * k, dtype=np.int32), feed.steps.sharding)
        for i in range(dispatches + 1)
    ]
    ends: list[float] = []

    def end(reduced: step.StepMetrics) -> None:
        assert jax.device_get(reduced).finite.all()
        ends.append(time.perf_counter())

    pending: step.StepMetrics | None = None
    for steps in numbers:
        state, reduced = train_step(state, feed._replace(steps=steps))
        if pending is not None:
            end(pending)
        pending = reduced
    end(reduced)
    assert int(state.step) == k * (dispatches + 1)  # the guard for non-finite steps skipped none
    return np.diff(ends) / k


def speed(dispatches: int, only_cores: list[int] | None = None, **arguments: Any) -> dict[str, Any]:
    """Run dispatches one after the other, with the data on the device: no stream, no metrics.

    `only_cores` are those of the processor that it may use (default: all); the other arguments are
    those of prepare.
    Returns seconds_per_step, the median over the dispatches, and jitter_seconds: how much the time
    of a single step would have to vary to make dispatches vary as they do.
    """
    if only_cores:
        os.sched_setaffinity(0, only_cores)  # before jax starts its threads
    *_, programs, state, feed = prepare(**arguments)
    seconds = seconds_per_step(programs.train_step, state, feed, dispatches)
    return {
        "seconds_per_step": float(np.median(seconds)),
        "jitter_seconds": float(np.std(seconds) * np.sqrt(len(feed.lrs))),
    }


def memory(**arguments: Any) -> dict[str, Any]:
    """Compile and run a dispatch; return bytes. The arguments are those of prepare.

    Returns arguments and temporary, as the compiler planned them, and peak, as the device counted
    it (None where it does not count).
    """
    *_, programs, state, feed = prepare(**arguments)
    compiled = programs.train_step.lower(state, feed).compile()
    planned = compiled.memory_analysis()
    jax.block_until_ready(compiled(state, feed))
    statistics = jax.devices()[0].memory_stats() or {}
    return {
        "arguments": planned.argument_size_in_bytes,
        "temporary": planned.temp_size_in_bytes,
        "peak": statistics.get("peak_bytes_in_use"),
    }
