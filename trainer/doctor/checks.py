"""The checks: of this host alone, then those that all processes do together."""

import os
import secrets
import shutil
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from trainer.config.schema import Config
from trainer.data.dataset import Dataset
from trainer.distributed.collectives import share
from trainer.distributed.connect import check_gpus, configure
from trainer.distributed.gpus import installed
from trainer.distributed.topology import Topology
from trainer.doctor.finding import Concern
from trainer.job import lock
from trainer.job.errors import UnavailableError, writing
from trainer.parallel import mesh, step
from trainer.tracking import environment
from trainer.train import feed, programs

PACKAGES = ("python", "jax", "jaxlib", "numpy", "orbax-checkpoint", "grain", "tensorboardX")
ENOUGH_BYTES = 2 << 30
ENOUGH_FILES = 10_000
LARGE = 670_000  # floats, about the weights of the main job
ROUNDS = 10
MAX_SKEW = 2.0  # seconds
MEGABYTES = 32  # of the file in the run directory


def versions() -> str:
    """Show the versions of Python and the packages that the trainer needs."""
    versions = environment.versions(PACKAGES)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def compilation_cache(config: Config) -> str:
    """Configure jax; check that its folder of compiled programs is private and writable."""

    def concern(text: str) -> None:
        raise Concern(text)

    configure(config.run, config.train.compilation_cache_dir, concern)
    if config.train.compilation_cache_dir is None:
        hint = "set train.compilation_cache_dir=DIR"
        raise Concern("none: every start compiles all programs", hint)
    return str(jax.config.values["jax_compilation_cache_dir"])


def free_space(folder: Path) -> str:
    """Check the free space where runs are written; the folder need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    free, files = shutil.disk_usage(folder).free, os.statvfs(folder).f_favail
    message = f"{free / 2**30:.1f} GiB and {files:,} files free at {folder}"
    # Some file systems, such as btrfs, do not count files and report 0.
    if free < ENOUGH_BYTES or 0 < files < ENOUGH_FILES:
        raise Concern(message, "free some space, or choose another run.root")
    return message


def visible_devices(topology: Topology) -> str:
    """Compare the devices that jax sees with those that the job expects."""
    check_gpus(topology)
    local = jax.local_devices()
    message = f"{len(local)} x {local[0].device_kind} here, {jax.device_count()} in all"
    if topology.gpus is not None:
        return f"{message}, as expected ({topology.gpus_evidence})"
    cards = len(installed())
    if cards and local[0].platform == "cpu":
        hint = "install the extra cuda12 or cuda13, and leave JAX_PLATFORMS unset"
        raise Concern(f"{message}, but {cards} GPUs are in /dev", hint)
    return message


def batch(config: Config, devices: Mesh) -> str:
    """Check that the batch and the virtual shards divide over the devices."""
    size, shards = config.train.global_batch_size, config.parallel.virtual_shards
    mesh.check_division(devices.size, size, shards, config.train.accumulate)
    return f"{size} examples a step, {size // devices.size} a device"


def run_directory(folder: Path, is_chief: bool) -> str:
    """Write and lock a file as process 0, read it as every process; called by all together."""
    with ExitStack() as until_all_have_read:
        name, speed = share(lambda: _write(folder, until_all_have_read) if is_chief else None)[0]
        slowest = min(share(lambda: _read(folder, name)))
    return f"{folder}: {speed:.0f} MB/s written by process 0, {slowest:.0f} MB/s read, locks work"


def _write(folder: Path, until_all_have_read: ExitStack) -> tuple[str, float]:
    """Return the name of a locked file, and the speed in MB/s at which it was written."""
    name = f".doctor-{secrets.token_hex(4)}"
    contents = os.urandom(MEGABYTES << 20)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        until_all_have_read.callback((folder / name).unlink, missing_ok=True)
        until_all_have_read.enter_context(lock.hold(folder, name))
        began = time.perf_counter()
        with (folder / name).open("ab") as file:
            file.write(contents)
            os.fsync(file.fileno())
    return name, MEGABYTES / (time.perf_counter() - began)


def _read(folder: Path, name: str) -> float:
    """Read the file and look for its lock; return the speed in MB/s."""
    try:
        with (folder / name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # not from memory
            began = time.perf_counter()
            file.read()
            seconds = time.perf_counter() - began
    except OSError as error:
        hint = "put run.root on a file system that all hosts share"
        raise UnavailableError(f"{folder / name}: {error.strerror}", hint) from None
    if not lock.held(folder, name):
        raise UnavailableError(
            f"{folder}: the lock of process 0 is not visible, so two jobs could write a run",
            "mount it with locks between hosts (NFS: without nolock and local_lock)",
        )
    return MEGABYTES / seconds


def clocks() -> str:
    """Compare the hosts' clocks; called by all processes together."""
    share(lambda: None)  # all read their clocks just after this
    times = share(time.time)
    skew = max(times) - min(times)
    message = f"at most {skew:.2f} s apart"
    if skew > MAX_SKEW:
        raise Concern(message, "start a time service (chrony, ntpd) on all hosts")
    return message


def all_reduce(devices: Mesh) -> str:
    """Measure the sum of a large and of a small array over all devices."""
    if devices.size == 1:
        return "not measured: there is one device"
    large, small = (_seconds_of_sum(devices, floats) for floats in (LARGE, 1))
    rate = LARGE * 4 / large / 1e6
    message = f"{large * 1e3:.2f} ms for {LARGE * 4 / 1e6:.1f} MB ({rate:,.0f} MB/s)"
    return f"{message}, {small * 1e3:.2f} ms for 4 bytes"


def _seconds_of_sum(devices: Mesh, floats: int) -> float:
    whole, axes = PartitionSpec(), devices.axis_names

    def add(x: jax.Array) -> jax.Array:
        return lax.psum(lax.pcast(x, axes, to="varying"), axes)

    total = jax.jit(jax.shard_map(add, mesh=devices, in_specs=whole, out_specs=whole))
    ones = mesh.place(mesh.replicated(devices), np.ones(floats, np.float32))
    sums = np.asarray(total(ones).addressable_data(0))
    if not (sums == devices.size).all():
        raise ArithmeticError(f"the sum of ones over {devices.size} devices is {sums[0]}")
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        jax.block_until_ready(total(ones))
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def one_step(config: Config, dataset: Dataset | None, devices: Mesh) -> str:
    """Compile the configured step and do it once, on the first batch."""
    if dataset is None:
        raise Concern("not tried: there is no data", "see data above")
    made = programs.make_programs(config, dataset, devices)
    rows = mesh.local_rows(devices, config.train.global_batch_size)
    plan = made.plan._replace(steps_per_dispatch=1)
    batch = programs.superbatches(config, dataset, made.task, rows, 0, plan)[0]
    inputs = feed.inputs(devices, feed.send(devices, made.schedule_of(1), batch, 0))
    key = jax.random.PRNGKey(config.run.seed)
    shard_state = config.parallel.shard_state
    state = step.init_state(made.task, made.update, key, devices, shard_state)
    began = time.perf_counter()
    _, reduced = made.train_step(state, inputs)
    sums = jax.device_get(reduced).sums
    seconds = time.perf_counter() - began
    loss = float(sums[0, 0] / sums[0, -1])
    if not np.isfinite(loss):
        raise Concern(f"the first loss is {loss}", "lower optim.lr")
    return f"loss {loss:.3f}; {seconds:.2f} s with its compilation"
