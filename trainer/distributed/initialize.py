"""Before the run: the processes connect, compare themselves, and claim the run directory."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from trainer.checkpoint import checksums
from trainer.config import user_module, user_sources
from trainer.config.schema import Config, as_json
from trainer.distributed.collectives import share, together
from trainer.distributed.connect import check_gpus, configure, connect, start_devices
from trainer.distributed.heartbeat import Heartbeat
from trainer.distributed.topology import Topology
from trainer.job import directory as run_directory
from trainer.job import lock
from trainer.job.errors import ConfigError, PeerLost
from trainer.job.exit import hard_exit, time_limit
from trainer.job.signals import StopRequest
from trainer.parallel import mesh as meshes
from trainer.tracking import environment
from trainer.tracking.terminal import Terminal

AGAIN = "run the same command again"


class ProcessContext(NamedTuple):
    """This process among those of the run."""

    mesh: Mesh  # the devices of all processes
    rows: slice  # of every global batch: those that this process loads
    directory: Path  # the run directory
    is_chief: bool  # process 0, which alone writes all files of the run but chunks of its state


def initialize(
    config: Config, experiment: str, topology: Topology, stop: StopRequest, stack: ExitStack
) -> tuple[ProcessContext, Heartbeat]:
    """Join the other processes, and claim the run directory of this experiment for this job.

    Closing `stack` releases the directory and ends the heartbeat.

    Raises:
        ConfigError: an option does not fit the devices, the processes contradict each other, or
            another job holds the run directory.
        SaveError: the storage of the run directory is full or read-only.
        PeerLost: another process, or the end of an earlier attempt, did not come in time.
        Preempted: asked to stop while waiting.
    """
    is_chief, terminal = topology.process_id == 0, Terminal()
    show = terminal.warn if is_chief else lambda _: None
    configure(config.run, config.train.compilation_cache_dir, show)
    on_lost = exit_on_loss(terminal.error)
    poll = partial(stop.check, "while waiting for the other processes")
    connect(topology, config.cluster, poll, on_lost)
    stop.install()  # jax may have replaced the signal handlers
    heartbeat = stack.enter_context(Heartbeat(config.cluster.heartbeat_timeout_seconds, on_lost))
    start_devices(topology, config.cluster, on_lost)

    def describe() -> tuple[str, str]:
        check_gpus(topology)
        options = as_json(config)
        del options["cluster"]["process_id"], options["cluster"]["token"], options["run"]["quiet"]
        code = environment.source() if topology.num_processes > 1 else ""
        for name, part in (("model", config.model), ("data", config.data)):
            if part.module is not None:
                module = user_module.load(f"{name}.module", part.module)
                code += "".join(user_sources.sources(module).values())
        return checksums.of_json(options), checksums.of_json(f"{code}, jax {jax.__version__}")

    def lay_out() -> tuple[Mesh, slice]:
        batch_size = config.train.global_batch_size
        parallel = config.parallel
        meshes.check_method(parallel.method, topology.num_processes)
        mesh = meshes.make_mesh(parallel.devices, parallel.mesh.replica, parallel.mesh.shard)
        accumulate = config.train.accumulate
        meshes.check_division(mesh.size, batch_size, parallel.virtual_shards, accumulate)
        return mesh, meshes.local_rows(mesh, batch_size)

    def claim() -> str:
        if not is_chief:
            return ""
        run = config.run
        directory = run_directory.choose(run.root, experiment, run.name, run.dir)
        run_directory.create(directory)
        give_up = _stop_waiting(config, stop)
        stack.enter_context(lock.hold(directory, job=topology.job, give_up=give_up))
        return str(directory)

    # First: gloo connects the processes in the first collective, and gives them only 30 s for it.
    check_same(share(describe))
    mesh, rows = together(lay_out)
    # A file system that hangs would hang the job for ever: the watchdog starts with the run.
    seconds = config.cluster.startup_timeout_seconds + config.cluster.hang_timeout_seconds
    message = f"the run directory did not answer within {seconds:g} s"
    with time_limit(seconds, lambda: on_lost(message)):
        directory = Path(share(claim)[0])
    return ProcessContext(mesh, rows, directory, is_chief), heartbeat


def exit_on_loss(show: Callable[[str], None]) -> Callable[[str], None]:
    """Return a callback that reports a lost process through `show`, and exits with 75."""
    return lambda message: hard_exit(PeerLost.exit_code, partial(show, f"{message}: {AGAIN}"))


def check_same(of_processes: Sequence[tuple[str, str]]) -> None:
    """Check that all processes have the same options and code, given digests of both.

    Raises:
        ConfigError: one differs from process 0; names it.
    """
    for index, (options, code) in enumerate(of_processes):
        if options != of_processes[0][0]:
            raise ConfigError(
                f"process {index} was started with other options than process 0",
                "start all with the same command line",
            )
        if code != of_processes[0][1]:
            raise ConfigError(
                f"process {index} runs other code than process 0",
                "give all hosts the same versions of the trainer and of jax",
            )


def _stop_waiting(config: Config, stop: StopRequest) -> Callable[[str], bool]:
    """Return a callback: have we waited long enough for an earlier attempt of the job to end?

    It gets a message about that attempt, and shows it once. It raises Preempted when asked to stop.
    """
    seconds = config.cluster.startup_timeout_seconds
    end = time.monotonic() + seconds
    show_once = cache(Terminal(quiet=config.run.quiet).note)

    def give_up(message: str) -> bool:
        show_once(f"{message}: waiting for its end, cluster.startup_timeout_seconds={seconds}")
        stop.check("while waiting for the end of an earlier attempt")
        return time.monotonic() > end

    return give_up
