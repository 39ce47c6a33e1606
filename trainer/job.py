"""One job: from a configuration to an exit code and a summary, whatever happens in between."""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

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
            place = _take_place(config, experiment, topology, stop, stack)
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
                first_line = (str(error) or type(error).__name__).splitlines()[0]
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
            # An orderly end would wait for processes that do not know that this one ends.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


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
    batch_size = config.train.global_batch_size
    mesh = meshes.make_mesh(config.parallel.devices)
    rows = meshes.local_rows(mesh, batch_size, "train.global_batch_size")
    meshes.check_shards(mesh, batch_size, config.parallel.virtual_shards)
    chief = topology.process_id == 0  # the one process that writes

    def claim() -> dict[str, str]:
        cluster.check_gpus(topology)
        claimed = {"options": _digest(config)}
        if chief:
            directory = rundir.choose(config.run, experiment)
            rundir.create(directory)
            stack.enter_context(lock.hold(directory))
            claimed["directory"] = str(directory)
        return claimed

    claims = cluster.share(claim)
    for index, other in enumerate(claims):
        if other["options"] != claims[0]["options"]:
            raise ConfigError(
                f"process {index} was started with other options than process 0: start all with "
                "the same command line"
            )
    return Place(mesh, rows, Path(claims[0]["directory"]), chief)


def _digest(config: Config) -> str:
    """Return a digest of every option that all processes must have in common."""
    options = dataclasses.asdict(config)
    del options["cluster"]["process_id"], options["run"]["quiet"]
    return digest.of_json(options)
