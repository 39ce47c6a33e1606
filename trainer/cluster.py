"""The processes of a run: jax's settings in each, connecting them, agreeing on things."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from trainer.config import ClusterConfig, RunConfig
from trainer.errors import EXIT_RETRY, ConfigError, TrainerError
from trainer.meeting import meet
from trainer.topology import Topology

Json = Any


def configure(run: RunConfig, compilation_cache_dir: str | None) -> None:
    """Set jax's process-wide options, before anything is computed.

    Raises:
        ConfigError: the folder of compiled programs cannot be made.
    """
    if run.legacy_prng:
        jax.config.update("jax_threefry_partitionable", False)
    if compilation_cache_dir is not None:
        folder = Path(compilation_cache_dir).expanduser().absolute()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs in it are trusted
        except OSError as error:
            raise ConfigError(
                f"train.compilation_cache_dir={compilation_cache_dir}: {error.strerror}: choose "
                "another folder, or null for none"
            ) from None
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def connect(topology: Topology, cluster: ClusterConfig, stop: Callable[[], bool]) -> None:
    """Join the other processes, waiting for them to appear. A single process joins nobody.

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
        with _ending_after(limit, "a process that had met the others did not connect"):
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


@contextmanager
def _ending_after(seconds: float, why: str) -> Iterator[None]:
    """End this process with code 75 when the block, which cannot be interrupted, takes longer."""

    def end() -> None:
        print(f"error: {why} within {seconds:g} s: look at their logs", file=sys.stderr, flush=True)
        os._exit(EXIT_RETRY)

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
            f"JAX_PLATFORMS={platforms}): install the extra cuda12, look at nvidia-smi, or train "
            "on the CPU with JAX_PLATFORMS=cpu"
        )


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
    told = {"value": value} if error is None else {"kind": error.name(), "error": str(error)}
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
                error = TrainerError.named(answer["kind"])(f"process {index}: {answer['error']}")
                error.everywhere = True
            raise error
    return [answer["value"] for answer in answers]
