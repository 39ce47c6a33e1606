"""Parts of the trainer alone: its data set, its stream, an all-reduce, its profile."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.profiler import ProfileData
from jax.sharding import PartitionSpec

from benchmarks.workers import LeftOut, program, rival
from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.dataset import Dataset, Examples, size
from trainer.data.report import Report
from trainer.data.stream import Plan, Superbatches, iterate
from trainer.distributed.connect import connect
from trainer.distributed.topology import resolve
from trainer.job.resources import CONFIG_DIR
from trainer.parallel import mesh as meshes
from trainer.sources.load import load
from trainer.tracking import environment, summary
from trainer.tracking.terminal import Terminal

EXECUTION = "ThunkExecutor::Execute (wait for completion)"  # a program, in a profile of a CPU


def machine(folder: str, overrides: list[str]) -> dict[str, Any]:
    """Write the data set to `folder` as four arrays; return facts of the machine and the data."""
    config = program.configuration(*overrides)
    dataset = write(config, folder)
    device, pixels = jax.devices()[0], dataset.train["image"][0].size
    return {
        **environment.collect([f"{d.platform} {d.device_kind}" for d in jax.devices()], 1),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "usable_cores": sorted(os.sched_getaffinity(0)),
        "dataset": {**summary.describe(dataset), "pixels": pixels},
        "sizes": [pixels, *config.model.hidden_sizes, config.data.num_classes],
        "pixel_mean": config.data.pixel_mean,
        "pixel_std": config.data.pixel_std,
        "precision": config.model.precision,
    }


def example(folder: str, config_dir: str, overrides: list[str]) -> dict[str, Any]:
    """Write an example's data set to `folder` as arrays; return what its rivals have to know.

    That is `examples`, the number for training, and fields of rival.Job in `job`.
    """
    os.environ[CONFIG_DIR] = config_dir
    config = compose(overrides)[0].config
    optim, options = config.optim, config.model.options
    job = {
        "arrays": folder,
        "batch_size": config.train.global_batch_size,
        "options": options and vars(options),  # {} of a module without a dataclass
        "optim": {"lr": optim.lr, "clip_norm": optim.clip_norm, **optim.options},
    }
    return {"examples": size(write(config, folder).train), "job": job}


def write(config: Config, folder: str) -> Dataset:
    """Write the data set of a configuration to `folder`, one array a file, and return it."""
    dataset = _load(config)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        for field, array in getattr(dataset, split).items():
            np.save(Path(folder) / f"{split}_{field}.npy", array)
    return dataset


def _load(config: Config) -> Dataset:
    quiet = Terminal(quiet=True)
    return load(config.data, Report(quiet.download, lambda: None, quiet.warn))


def stream(
    source: str | list[str], batch_size: int, k: int, steps: int, processes: int, cores: list[int]
) -> dict[str, Any]:
    """Read `steps` steps, K a dispatch; return the examples a second of this process.

    `source` is a folder that has them, mapped into memory, or options of the trainer. The processes
    share the rows of a batch, and each is bound to one of the cores.
    """
    process = int(os.environ.get("JAX_PROCESS_ID", "0"))
    os.sched_setaffinity(0, {cores[process % len(cores)]})
    if isinstance(source, str):
        split: Examples = rival.read(source, "train")
    else:
        split = _load(program.configuration(*source)).train
    rows = batch_size // processes
    batches = Superbatches(
        split,
        plan=Plan(-(-size(split) // batch_size), k, steps),
        global_batch_size=batch_size,
        rows=slice(process * rows, (process + 1) * rows),
        seed=0,
        first_step=0,
    )
    examples = read = 0
    began = time.perf_counter()
    for batch in iterate(batches):
        examples += int(batch.mask.sum())
        read += len(batch.mask)
        if read >= steps:
            break
    return {"examples_per_second": examples / (time.perf_counter() - began)}


def all_reduce(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Return the median seconds of an all-reduce of float32 arrays of these sizes.

    Started in several processes at once, which connect to each other as those of the trainer do.
    An array is added up `repeats` times in one program, as in a scan of steps.
    """
    config = program.configuration()
    connect(resolve(config.cluster, os.environ), config.cluster, lambda: None, print)
    mesh = meshes.make_mesh(None)
    whole = PartitionSpec()

    def repeated(array: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            carry = lax.pcast(carry, meshes.AXIS, to="varying")
            return lax.psum(carry, meshes.AXIS) * np.float32(0.5), None

        return lax.scan(body, array, None, length=repeats)[0]

    reduce = jax.jit(jax.shard_map(repeated, mesh=mesh, in_specs=(whole,), out_specs=whole))
    seconds = []
    for length in sizes:
        placed = meshes.place(meshes.replicated(mesh), np.full(length, 1e-30, np.float32))
        times = []
        for _ in range(6):
            began = time.perf_counter()
            jax.block_until_ready(reduce(placed))
            times.append((time.perf_counter() - began) / repeats)
        seconds.append(float(np.median(times[1:])))  # the first was compiled
    return {"seconds": seconds}


def idle(directory: str) -> dict[str, Any]:
    """Return `share`, idle of the time from the first of the device's work to the last.

    By whole programs, on a CPU, in the profile of a run: a wait inside one does not show.
    """
    (path,) = Path(directory).rglob("*.xplane.pb")
    spans = [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane in ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
        if event.name == EXECUTION
    ]
    if not spans:
        raise LeftOut("the profile shows no work of the device")
    return {"share": idle_share(spans)}


def idle_share(spans: Iterable[tuple[float, float]]) -> float:
    """Return the part of the time, from the first begin to the last end, that no span covers."""
    ordered = sorted(spans)
    first = reached = ordered[0][0]
    idle = 0.0
    for begin, end in ordered:
        idle += max(0.0, begin - reached)
        reached = max(reached, end)
    return idle / (reached - first)
