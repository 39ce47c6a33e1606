"""One job: from a configuration to an exit code and a summary, whatever happens in between."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import jax

from trainer import cluster, digest, lock, rundir, summary
from trainer import mesh as meshes
from trainer.account import Account
from trainer.atomic import write_json
from trainer.config import Config
from trainer.errors import (
    EXIT_COMPLETED,
    EXIT_INTERNAL,
    ConfigError,
    PeerLost,
    Preempted,
    TrainerError,
)
from trainer.loop import Place, Run
from trainer.peers import Peers
from trainer.preemption import StopRequest
from trainer.reception import Clock
from trainer.terminal import Terminal
from trainer.topology import Topology, resolve
from trainer.watchdog import Watchdog


def run(config: Config, experiment: str, record: Mapping[str, str], stop: StopRequest) -> int:
    """Train, or go on training, as the configuration says; return the exit code.

    Args:
        config: every option.
        experiment: its name, part of the run directory's.
        record: file name -> text, kept in .hydra/ of the run directory.
        stop: whether somebody asked for a stop.

    Raises:
        TrainerError: before there is a run directory that is this job's to write to.
    """
    account = Account()
    with ExitStack() as stack:
        with account.phase("startup"):
            topology = resolve(config.cluster, os.environ)
            try:
                place = _take_place(config, experiment, topology, stop, stack)
            except Exception as error:
                if topology.num_processes > 1 and _from_a_collective(error):
                    reason = f"lost another process at the start ({_first_line(error)})"
                    Terminal().error(f"{reason}: run the same command again")
                    _leave(PeerLost.exit_code)
                if isinstance(error, TrainerError) and not error.everywhere:
                    Terminal().error(str(error))
                    _leave(error.exit_code)
                raise
        report = summary.begin(experiment, config.train.global_batch_size)
        report["devices"], report["processes"] = place.mesh.size, jax.process_count()
        report["platform"] = jax.default_backend()
        terminal = Terminal(quiet=config.run.quiet or not place.chief)
        stack.callback(terminal.close)
        terminal.note(_describe(topology, place))

        def close() -> None:
            """Write the summary."""
            terminal.close()
            summary.finish(report, account)
            if place.chief:
                try:
                    write_json(place.directory / "summary.json", report)
                except OSError as error:
                    terminal.error(f"no summary in {place.directory}: {error.strerror}")

        def end(told: str) -> None:
            """Write how the run ended, and say so."""
            report["error"] = told
            terminal.error(told)
            close()

        stacks = place.directory / f"hang-process-{jax.process_index()}.txt"
        watchdog = Watchdog(config.cluster.hang_timeout_seconds, stacks, end)
        code, together = EXIT_INTERNAL, False
        with Peers(config.cluster.heartbeat_timeout_seconds, end) as peers:
            try:
                with ExitStack() as opened:
                    Run(
                        config, place, record, stop, terminal, account, report, watchdog, opened
                    ).fit()
                code, together = EXIT_COMPLETED, True
            except ConfigError:
                raise  # the directory belongs to a run of another meaning: nothing is written to it
            except TrainerError as error:
                report["status"] = "preempted" if isinstance(error, Preempted) else "failed"
                code, together = error.exit_code, error.everywhere
                end(str(error))
            except Exception as error:
                first_line = _first_line(error)
                if jax.process_count() > 1 and _from_a_collective(error):
                    code = PeerLost.exit_code
                    end(f"lost {peers.blame()} ({first_line}): run the same command again")
                else:
                    traceback.print_exc()
                    end(f"{type(error).__name__}: {first_line}")
            else:
                report["status"] = "completed"
                close()
        if place.chief and report["steps"]:
            terminal.summary(summary.rows(place.directory, report))
        if not together and jax.process_count() > 1:
            _leave(code)
        if any(not t.daemon for t in threading.enumerate() if t is not threading.main_thread()):
            jax.distributed.shutdown()
            _leave(code)  # a failed save leaves threads of orbax behind that end 20 minutes later
    return code


def _leave(code: int) -> NoReturn:
    """End at once: an orderly end would wait for processes or threads that know nothing of it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _from_a_collective(error: Exception) -> bool:
    """Return whether an error came out of the communication between processes."""
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def _describe(topology: Topology, place: Place) -> str:
    processes = jax.process_count()
    return (
        f"{processes} {'process' if processes == 1 else 'processes'} ({topology.evidence}), "
        f"{place.mesh.size} x {jax.devices()[0].device_kind}, in {place.directory}"
    )


def _take_place(
    config: Config, experiment: str, topology: Topology, stop: StopRequest, stack: ExitStack
) -> Place:
    """Join the other processes, and claim the run directory for this job."""
    cluster.configure(config.run, config.train.compilation_cache_dir)
    cluster.connect(topology, config.cluster, stop)
    stop.install()  # jax may have taken the signals away
    cluster.start_devices(topology, config.cluster)
    batch_size = config.train.global_batch_size
    mesh = meshes.make_mesh(config.parallel.devices)
    rows = meshes.local_rows(mesh, batch_size, "train.global_batch_size")
    meshes.check_shards(mesh, batch_size, config.parallel.virtual_shards)
    chief = topology.process_id == 0  # the one process that writes

    def agree() -> str:
        cluster.check_gpus(topology)
        return _digest(config)

    def claim() -> str:
        if not chief:
            return ""
        directory = rundir.choose(config.run, experiment)
        rundir.create(directory)
        over = _patience(config, stop)
        stack.enter_context(lock.hold(directory, job=topology.job, over=over))
        return str(directory)

    # In this order: the first time that gloo connects the processes, it gives them only 30 s.
    options = cluster.share(agree)
    for index, other in enumerate(options):
        if other != options[0]:
            raise ConfigError(
                f"process {index} was started with other options than process 0: start all with "
                "the same command line"
            )
    return Place(mesh, rows, Path(cluster.share(claim)[0]), chief)


def _patience(config: Config, stop: StopRequest) -> Callable[[str], bool]:
    """Return what tells whether an earlier attempt was waited for long enough, and says so."""
    seconds = config.cluster.startup_timeout_seconds
    clock, said = Clock(seconds, stop), False

    def over(told: str) -> bool:
        nonlocal said
        if not said:
            patience = f"waiting for its end, cluster.startup_timeout_seconds={seconds}"
            Terminal(quiet=config.run.quiet).note(f"{told}: {patience}")
            said = True
        return clock.over()

    return over


def _digest(config: Config) -> str:
    """Return a digest of every option that all processes must have in common."""
    options = dataclasses.asdict(config)
    del options["cluster"]["process_id"], options["run"]["quiet"]
    return digest.of_json(options)
