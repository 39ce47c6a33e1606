"""The processes of a run: jax's settings in each, connecting them, agreeing on things."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from trainer.config.schema import ClusterConfig, RunConfig
from trainer.distributed.rendezvous import meet
from trainer.distributed.topology import Topology
from trainer.job import exit
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_RETRY, ConfigError, PeerLost, TrainerError

Json = Any
T = TypeVar("T")
Tree = TypeVar("Tree")  # a pytree of arrays

# What gloo, NCCL and jax's coordination service say when another process does not answer.
LOSS = re.compile(
    "gloo|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|connection (closed|reset|refused)|socket closed|"
    "unhandled system error|remote process exited",
    re.IGNORECASE,
)


def configure(run: RunConfig, compilation_cache_dir: str | None) -> None:
    """Set jax's process-wide options, before anything is computed.

    Raises:
        ConfigError: the folder of compiled programs cannot be made, or jax is not to compile.
    """
    # Whatever JAX_* variables say: the weights follow from the configuration and its seed alone.
    jax.config.update("jax_threefry_partitionable", not run.legacy_prng)
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    if jax.config.values["jax_disable_jit"]:
        raise ConfigError("JAX_DISABLE_JIT is set: the trainer's programs are compiled: unset it")
    if compilation_cache_dir is not None:
        option = "train.compilation_cache_dir"
        folder = expanded(compilation_cache_dir, option).absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs in it are trusted
        except OSError as error:
            raise ConfigError(
                f"train.compilation_cache_dir={compilation_cache_dir}: {error.strerror}",
                "choose another folder, or null for none",
            ) from None
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _leave(told: str) -> NoReturn:
    exit.hard_exit(EXIT_RETRY, lambda: print(f"error: {told}: look at their logs", file=sys.stderr))


def connect(
    topology: Topology,
    cluster: ClusterConfig,
    stop: Callable[[], bool],
    leave: Callable[[str], NoReturn] = _leave,
) -> None:
    """Join the other processes, waiting for them to appear. A single process joins nobody.

    Args:
        topology: of the processes.
        cluster: the time-outs.
        stop: whether this process was asked to stop.
        leave: told, in another thread, why this process cannot go on; ends it, with code 75.

    Raises:
        PeerLost: somebody did not come in time; says who.
        ConfigError: the processes contradict each other.
        Preempted: asked to stop while waiting.
    """
    if topology.local_device_ids is not None:
        ids = ",".join(map(str, topology.local_device_ids))
        jax.config.update("jax_cuda_visible_devices", ids)
    if topology.num_processes > 1:
        ip, port = meet(topology, cluster.startup_timeout_seconds, stop)
        bound = f"[{ip}]" if ":" in ip else ip
        _bypass_proxies(ip)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # the signals are ours
        limit = min(60, cluster.startup_timeout_seconds)  # all are there
        why = f"a process that had met the others did not connect within {limit:g} s"
        with time_limit(limit, lambda: leave(why)):
            jax.distributed.initialize(
                coordinator_address=f"{bound}:{port}",
                coordinator_bind_address=f"{bound}:{port}",
                num_processes=topology.num_processes,
                process_id=topology.process_id,
                cluster_detection_method="deactivate",  # it would give one GPU to each process
                # jax aborts the process without a word of ours: only if we have not before. It
                # does so after half the time when the last heartbeat came long before a loss.
                initialization_timeout=limit + 60,
                heartbeat_timeout_seconds=2 * (cluster.heartbeat_timeout_seconds + 8),
            )


def start_devices(
    topology: Topology, cluster: ClusterConfig, leave: Callable[[str], NoReturn] = _leave
) -> None:
    """Make jax look for its devices: those of all processes, which wait for each other here.

    Args:
        topology: of the processes.
        cluster: the time-outs.
        leave: as in `connect`.

    Raises:
        ConfigError: JAX_PLATFORMS asks for devices that do not work here.
        PeerLost: another process did not look for its own.
    """
    seconds = cluster.startup_timeout_seconds
    why = f"a process that had connected did not start its devices within {seconds:g} s"
    try:
        with time_limit(seconds, lambda: leave(why)):
            jax.devices()
    except (AssertionError, RuntimeError) as error:  # jax asserts that it has found a backend
        told = (str(error) or "no such devices, or not the extra for them").splitlines()[0]
        if topology.num_processes > 1 and tells_of_a_loss(error):
            raise PeerLost(f"another process did not start its devices: {told}") from None
        raise ConfigError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: jax cannot start it ({told})",
            "install the extra cuda12 or cuda13 and look at nvidia-smi, or train on the CPU with "
            "JAX_PLATFORMS=cpu",
        ) from None


def tells_of_a_loss(error: Exception) -> bool:
    """Return whether an error came out of the connections between the processes."""
    return LOSS.search(str(error)) is not None


@contextmanager
def time_limit(seconds: float, end: Callable[[], object]) -> Iterator[None]:
    """Call `end`, in another thread, when the block takes longer: nothing else can interrupt it."""
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _bypass_proxies(ip: str) -> None:
    """Connect to process 0 directly: gRPC would ask a proxy for it, and hang."""
    if any(name.lower() in ("http_proxy", "https_proxy", "grpc_proxy") for name in os.environ):
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        os.environ["no_grpc_proxy"] = f"{known},{ip}" if known else ip  # noqa: SIM112 - gRPC's name


def check_gpus(topology: Topology) -> None:
    """Check that this process has the GPUs that it ought to have.

    Raises:
        ConfigError: it has another number of them.
    """
    expected, evidence = topology.gpus, topology.gpus_evidence
    there = [device for device in jax.local_devices() if device.platform != "cpu"]
    if expected is not None and len(there) != expected:
        platforms = os.environ.get("JAX_PLATFORMS")
        raise ConfigError(
            f"{expected} GPUs expected ({evidence}), but jax sees {len(there)} "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}, "
            f"JAX_PLATFORMS={platforms})",
            "install the extra cuda12 or cuda13, look at nvidia-smi, or train on the CPU with "
            "JAX_PLATFORMS=cpu",
        )


def broadcast(tree: Tree) -> Tree:
    """Return the numpy arrays of process 0, bit for bit; all processes give the same shapes."""
    if jax.process_count() == 1:
        return tree
    # As bytes: jax adds the arrays of the processes up, and -0.0 + 0.0 is 0.0.
    raw = jax.tree.map(lambda x: np.frombuffer(np.asarray(x).tobytes(), np.uint8), tree)
    sent = multihost_utils.broadcast_one_to_all(raw)
    return jax.tree.map(lambda x, got: np.asarray(got).view(x.dtype).reshape(x.shape), tree, sent)


def together(make: Callable[[], T]) -> T:
    """Call `make` on every process, and return what it got on this one: share() for any value.

    Raises:
        TrainerError: on every process, the first that any of them raised.
    """
    own: list[T] = []
    share(lambda: own.append(make()))
    return own[0]


def share(make: Callable[[], Json]) -> list[Json]:
    """Call `make` on every process, and return what each of them got, in order.

    All processes have to call this together. Without it, one that fails alone would leave the
    others waiting for it.

    Raises:
        TrainerError: on every process, the first that any of them raised.
    """
    error: TrainerError | None = None
    value: Json = None
    try:
        value = make()
    except TrainerError as raised:
        error = raised
        error.everywhere = True
    if jax.process_count() == 1:
        if error is not None:
            raise error
        return [value]
    told = {"value": value}
    if error is not None:
        told = {"kind": error.name(), "error": error.message, "hint": error.hint}
    data = np.frombuffer(json.dumps(told).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(data)], np.int32))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    answers = [
        json.loads(bytes(row[: int(length)]))
        for row, length in zip(rows, lengths.ravel(), strict=True)
    ]
    for index, answer in enumerate(answers):
        if "error" in answer:
            if error is None or index != jax.process_index():
                kind = TrainerError.named(answer["kind"])
                error = kind(f"process {index}: {answer['error']}", answer["hint"])
                error.everywhere = True
            raise error
    return [answer["value"] for answer in answers]
