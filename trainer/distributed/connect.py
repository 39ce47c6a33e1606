"""Configure jax, connect it to the other processes, and start the devices."""

import os
import re
import socket
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax

# Neither the address of gloo nor the files of compiled programs have a public function.
from jax._src import compilation_cache, distributed, xla_bridge
from jaxlib import _jax

from trainer.config.schema import ClusterConfig, RunConfig
from trainer.distributed.collectives import is_peer_loss
from trainer.distributed.rendezvous import meet
from trainer.distributed.topology import Topology
from trainer.job.directory import expanded, not_own
from trainer.job.errors import ConfigError, PeerLost
from trainer.job.exit import time_limit

INSTALL_HINT = (
    "install the extra cuda12 or cuda13 and look at nvidia-smi, or train on the CPU with "
    "JAX_PLATFORMS=cpu"
)
_SHOW = warnings.showwarning
# What jax warns of: the name of a program, and why its file cannot be used.
_CACHE_WARNING = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '([^']*)': (.*)", re.DOTALL
)


def configure(
    run: RunConfig, compilation_cache_dir: str | None, warn: Callable[[str], None]
) -> None:
    """Set jax's process-wide options, before anything is computed.

    `warn` gets a message if the folder of compiled programs cannot be used: training works without.

    Raises:
        ConfigError: JAX_DISABLE_JIT is set, or the name of that folder begins with an unknown user.
    """
    # Whatever the JAX_* variables say: the weights follow from the configuration and its seed.
    jax.config.update("jax_threefry_partitionable", not run.legacy_prng)
    jax.config.update("jax_default_prng_impl", "threefry2x32")
    if jax.config.values["jax_disable_jit"]:
        raise ConfigError("JAX_DISABLE_JIT is set: the trainer's programs are compiled: unset it")
    if compilation_cache_dir is not None:
        folder = expanded(compilation_cache_dir, "train.compilation_cache_dir").absolute()
        if problem := _cache_problem(folder):
            hint = "programs are compiled without a cache; give it a folder of your own"
            warn(f"train.compilation_cache_dir={folder} {problem}: {hint}")
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        _tell_of_damage(folder, warn)


def _cache_problem(folder: Path) -> str:
    """Make a folder for compiled programs; return why it cannot be used, "" if it can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if problem := not_own(folder):  # jax runs the programs in it
            return f"{problem}, and compiled programs are code"
        with tempfile.TemporaryFile(dir=folder) as probe:  # else jax warns once a program
            probe.write(bytes(4096))
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def _tell_of_damage(folder: Path, warn: Callable[[str], None]) -> None:
    """Give jax's warnings of a folder of compiled programs in plain words, and delete torn files.

    A full disk or a power cut leaves half a file, which jax never replaces: it would warn of it,
    and compile the program, at every start.
    """
    once = cache(warn)

    def show_plainly(message: Any, *others: Any) -> None:
        if (match := _CACHE_WARNING.match(str(message))) is None:
            _SHOW(message, *others)
        elif match[1] == "writing":
            once(f"{folder} cannot be written ({match[3]}): the next start compiles again")
        else:
            once(f"{folder}: a program cannot be read ({match[3]}): it is compiled again")
            for path in folder.glob(f"{match[2]}-*"):
                if _is_torn(path):
                    path.unlink(missing_ok=True)

    warnings.showwarning = show_plainly  # type: ignore[assignment]  # takes all by place


def _is_torn(path: Path) -> bool:
    try:
        compilation_cache.decompress_executable(path.read_bytes())
    except Exception:  # zlib's or zstd's
        return True
    return False


def connect(
    topology: Topology,
    cluster: ClusterConfig,
    poll: Callable[[], object],
    on_lost: Callable[[str], object],
) -> None:
    """Connect jax to the other processes, once all are there; a run of one needs no connection.

    `poll` is called while waiting and may raise, to end the wait. `on_lost` gets a message in
    another thread, and ends this process.

    Raises:
        PeerLost: a process did not come in time; names it.
        ConfigError: the processes contradict each other.
        Exception: whatever poll() raised.
    """
    if topology.local_device_ids is not None:
        ids = ",".join(map(str, topology.local_device_ids))
        jax.config.update("jax_cuda_visible_devices", ids)
    if topology.num_processes == 1:
        return
    ip, port = meet(topology, cluster.startup_timeout_seconds, poll)
    address = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    # Connect to process 0 directly: gRPC would ask a proxy, and hang.
    direct = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), ip)
    os.environ["no_grpc_proxy"] = ",".join(filter(None, direct))  # noqa: SIM112 - gRPC's name
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    limit = min(60, cluster.startup_timeout_seconds)  # all are there already
    message = f"another process met this one, but did not connect within {limit:g} s: see its log"
    with time_limit(limit, lambda: on_lost(message)):
        jax.distributed.initialize(
            coordinator_address=address,
            coordinator_bind_address=address,
            num_processes=topology.num_processes,
            process_id=topology.process_id,
            cluster_detection_method="deactivate",  # it would give one GPU to each process
            # After these, jax aborts without a message, so our own time-outs must come first. Its
            # second one may take only half as long: it depends on when the last heartbeat came.
            initialization_timeout=limit + 60,
            heartbeat_timeout_seconds=2 * (cluster.heartbeat_timeout_seconds + 8),
        )
    # By itself gloo listens at the address of this host's name: to the whole network where all
    # processes are on one host, or to nobody else where /etc/hosts has it as 127.0.1.1.
    gloo = _jax.make_gloo_tcp_collectives(distributed.global_state.client, own_address(ip))
    client = partial(xla_bridge.make_cpu_client, gloo)
    xla_bridge.register_backend_factory("cpu", client, priority=0, fail_quietly=False)


def own_address(ip: str) -> str:
    """Return the address of this host from which it reaches another; sends nothing."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((ip, 9))
        return str(probe.getsockname()[0])


def start_devices(
    topology: Topology, cluster: ClusterConfig, on_lost: Callable[[str], object]
) -> None:
    """Make jax start the devices of this process; all processes wait for each other in it.

    `on_lost` is called as in `connect`.

    Raises:
        ConfigError: JAX_PLATFORMS names devices that do not work on this host.
        PeerLost: another process did not start its devices.
    """
    seconds = cluster.startup_timeout_seconds
    message = f"another process did not start its devices within {seconds:g} s: see its log"
    try:
        with time_limit(seconds, lambda: on_lost(message)):
            jax.devices()
    except (AssertionError, RuntimeError) as error:  # jax asserts that there is a backend
        text = (str(error) or "no such devices, or not the extra for them").splitlines()[0]
        if topology.num_processes > 1 and is_peer_loss(error):
            raise PeerLost(f"another process did not start its devices: {text}") from None
        raise ConfigError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}: jax cannot start it ({text})",
            INSTALL_HINT,
        ) from None


def check_gpus(topology: Topology) -> None:
    """Check that jax sees as many GPUs as this process expects.

    Raises:
        ConfigError: it sees another number.
    """
    gpus = sum(device.platform != "cpu" for device in jax.local_devices())
    if topology.gpus not in (None, gpus):
        seen = ", ".join(
            f"{name}={os.environ.get(name)}" for name in ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
        )
        message = f"{topology.gpus} GPUs expected ({topology.gpus_evidence}), but jax sees {gpus}"
        raise ConfigError(f"{message} ({seen})", INSTALL_HINT)
