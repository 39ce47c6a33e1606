"""Before there is a run: the processes join, agree, and claim the run directory for one job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from trainer.checkpoint import checksums
from trainer.config.schema import Config
from trainer.distributed import collectives
from trainer.distributed.deadline import Deadline
from trainer.distributed.heartbeat import Peers
from trainer.distributed.topology import Topology
from trainer.job import directory as rundir
from trainer.job import lock
from trainer.job.errors import ConfigError, PeerLost
from trainer.job.exit import hard_exit
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
    is_chief: bool  # process 0, the only one that writes to the run directory


def take_place(
    config: Config, experiment: str, topology: Topology, stop: StopRequest, stack: ExitStack
) -> tuple[ProcessContext, Peers]:
    """Join the other processes, and claim the run directory for this job."""
    collectives.configure(config.run, config.train.compilation_cache_dir)
    collectives.connect(topology, config.cluster, stop)
    stop.install()  # jax may have taken the signals away
    limit = config.cluster.heartbeat_timeout_seconds
    peers = stack.enter_context(Peers(limit, leaving(Terminal().error)))
    collectives.start_devices(topology, config.cluster)
    chief = topology.process_id == 0  # the one process that writes

    def agree() -> tuple[str, str]:
        collectives.check_gpus(topology)
        code = environment.source("**/*.py") if topology.num_processes > 1 else ""
        return _digest(config), f"{code}, jax {jax.__version__}"

    def lay_out() -> tuple[Mesh, slice]:
        batch_size = config.train.global_batch_size
        meshes.check_method(config.parallel.method, topology.num_processes)
        mesh = meshes.make_mesh(config.parallel.devices)
        rows = meshes.local_rows(mesh, batch_size, "train.global_batch_size")
        meshes.check_division(mesh.size, batch_size, config.parallel.virtual_shards)
        return mesh, rows

    def claim() -> str:
        if not chief:
            return ""
        directory = rundir.choose(config.run.root, experiment, config.run.name, config.run.dir)
        rundir.create(directory)
        over = _patience(config, stop)
        stack.enter_context(lock.hold(directory, job=topology.job, give_up=over))
        return str(directory)

    # In this order: the first time that gloo connects the processes, it gives them only 30 s.
    (options, code), *others = collectives.share(agree)
    for index, (other_options, other_code) in enumerate(others, start=1):
        if other_options != options:
            raise ConfigError(
                f"process {index} was started with other options than process 0: start all with "
                "the same command line"
            )
        if other_code != code:
            raise ConfigError(
                f"process {index} runs other code than process 0: give all hosts the same versions "
                "of the trainer and of jax"
            )
    mesh, rows = collectives.together(lay_out)
    # A file system that hangs would hold the job up for ever: the watchdog looks at runs only.
    seconds = config.cluster.startup_timeout_seconds + config.cluster.hang_timeout_seconds
    told = f"the run directory did not answer within {seconds:g} s"
    with collectives.time_limit(seconds, lambda: peers.on_lost(told)):
        directory = Path(collectives.share(claim)[0])
    return ProcessContext(mesh, rows, directory, chief), peers


def leaving(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return what tells that a process was lost, and ends this one."""
    return lambda told: hard_exit(PeerLost.exit_code, partial(say, f"{told}: {AGAIN}"))


def _patience(config: Config, stop: StopRequest) -> Callable[[str], bool]:
    """Return what tells whether an earlier attempt was waited for long enough, and says so."""
    seconds = config.cluster.startup_timeout_seconds
    deadline, said = Deadline(seconds, stop, "the end of an earlier attempt"), False

    def over(told: str) -> bool:
        nonlocal said
        if not said:
            patience = f"waiting for its end, cluster.startup_timeout_seconds={seconds}"
            Terminal(quiet=config.run.quiet).note(f"{told}: {patience}")
            said = True
        return deadline.over()

    return over


def _digest(config: Config) -> str:
    """Return a digest of every option that all processes must have in common."""
    options = dataclasses.asdict(config)
    del options["cluster"]["process_id"], options["run"]["quiet"]
    return checksums.of_json(options)
