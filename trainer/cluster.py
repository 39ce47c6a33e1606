"""Who am I? Which process of how many, found without a device; then connecting the processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from trainer.config import ClusterConfig, RunConfig
from trainer.errors import ConfigError, TrainerError

Json = Any

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Topology(NamedTuple):
    """The processes of a run, and which one this is."""

    kind: str
    num_processes: int
    process_id: int
    coordinator_address: str | None  # HOST:PORT; None for a single process
    evidence: str  # what told us, to be shown


def resolve(cluster: ClusterConfig, environ: Mapping[str, str]) -> Topology:
    """Tell from the options and the environment which process this is. Touches nothing.

    Raises:
        ConfigError: what is given is incomplete or contradicts itself.
    """
    if cluster.kind == "single":
        return Topology("single", 1, 0, None, "cluster=single")
    if cluster.kind == "explicit":
        options = ("coordinator_address", "num_processes", "process_id")
        given = {f"cluster.{name}": getattr(cluster, name) for name in options}
        return _explicit(given, "the options cluster.*")
    present = {name: environ[name] for name in VARIABLES if environ.get(name)}
    if present:
        return _explicit({name: present.get(name) for name in VARIABLES}, "the variables JAX_*")
    return Topology("single", 1, 0, None, "no cluster variables")


def _explicit(given: Mapping[str, str | int | None], source: str) -> Topology:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing: {source} go together: {', '.join(given)}")
    (_, address), (number_name, number), (id_name, process_id) = given.items()
    count, index = _whole(number_name, number), _whole(id_name, process_id)
    if not 0 <= index < count:
        raise ConfigError(f"{id_name}={index}: with {number_name}={count} use 0 to {count - 1}")
    return Topology("explicit", count, index, str(address), source)


def _whole(name: str, value: str | int | None) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(f"{name}={value}: use a whole number") from None


def configure(run: RunConfig, compilation_cache_dir: str | None) -> None:
    """Set jax's process-wide options, before anything is computed."""
    if run.legacy_prng:
        jax.config.update("jax_threefry_partitionable", False)
    if compilation_cache_dir is not None:
        folder = Path(compilation_cache_dir).expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs in it are trusted
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def connect(topology: Topology, cluster: ClusterConfig) -> None:
    """Join the other processes, waiting for them to appear. A single process joins nobody."""
    if topology.num_processes == 1:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # the signals are ours
    jax.distributed.initialize(
        coordinator_address=topology.coordinator_address,
        num_processes=topology.num_processes,
        process_id=topology.process_id,
        local_device_ids=None,
        initialization_timeout=cluster.startup_timeout_seconds,
        # jax aborts the process without a word of ours: only if peers.py has not ended it before.
        heartbeat_timeout_seconds=cluster.heartbeat_timeout_seconds + 8,
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
    if jax.process_count() == 1:
        if error is not None:
            raise error
        return [value]
    told = {"value": value} if error is None else {"code": error.exit_code, "error": str(error)}
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
            if error is None:
                error = TrainerError(f"process {index}: {answer['error']}")
                error.exit_code = answer["code"]
            raise error
    return [answer["value"] for answer in answers]
