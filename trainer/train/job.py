"""One job: from a configuration to an exit code and a summary, whatever happens in between."""

from __future__ import annotations

import errno
import os
import re
import threading
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import jax

from trainer.config.schema import Config
from trainer.distributed import collectives, initialize
from trainer.distributed.initialize import ProcessContext
from trainer.distributed.topology import Topology, resolve
from trainer.job.errors import (
    EXIT_COMPLETED,
    EXIT_INTERNAL,
    ConfigError,
    PeerLost,
    Preempted,
    TrainerError,
    first_line,
)
from trainer.job.exit import MESSAGE_SECONDS, hard_exit, hard_exit_later
from trainer.job.files import write_json
from trainer.job.signals import StopRequest
from trainer.job.watchdog import Watchdog
from trainer.tracking import summary
from trainer.tracking.goodput import PhaseTimer, process_seconds
from trainer.tracking.terminal import Terminal
from trainer.train.context import Task
from trainer.train.loop import Run

MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)


def run(config: Config, experiment: str, record: Mapping[str, str], stop: StopRequest) -> int:
    """Train, or go on training, as the configuration says; return the exit code.

    Of several processes, one that fails alone ends here, at once: the others know nothing of it,
    and an orderly end would wait for them.

    Args:
        config: every option.
        experiment: its name, part of the run directory's.
        record: file name -> text, kept in .hydra/ of the run directory.
        stop: whether somebody asked for a stop.

    Raises:
        TrainerError: there is no run directory that is this job's to write to.
    """
    timer = PhaseTimer(process_seconds())
    topology = resolve(config.cluster, os.environ)
    alone = topology.num_processes == 1
    # For those that end together: the slowest may have to wait for an evaluation of the others.
    limit = config.cluster.heartbeat_timeout_seconds + MESSAGE_SECONDS
    try:
        code = _run(config, experiment, record, stop, timer, topology)
    except TrainerError as error:
        if not alone:
            if not error.everywhere:
                hard_exit(error.exit_code, partial(Terminal().error, str(error)))
            hard_exit_later(limit, error.exit_code)
        raise
    except Exception:
        if alone:
            raise
        hard_exit(EXIT_INTERNAL, traceback.print_exc)
    if not alone:
        hard_exit_later(limit, code)
    return code


def _run(
    config: Config,
    experiment: str,
    record: Mapping[str, str],
    stop: StopRequest,
    timer: PhaseTimer,
    topology: Topology,
) -> int:
    with ExitStack() as stack:
        with timer.phase("startup"):
            try:
                place, peers = initialize.take_place(config, experiment, topology, stop, stack)
            except TrainerError:
                raise
            except Exception as error:
                if topology.num_processes == 1 or not collectives.tells_of_a_loss(error):
                    raise
                reason = f"lost another process at the start ({first_line(error)})"
                raise PeerLost(f"{reason}: {initialize.AGAIN}") from None
        report = summary.begin(experiment, config.train.global_batch_size, timer)
        report["devices"], report["processes"] = place.mesh.size, jax.process_count()
        report["platform"] = jax.default_backend()
        terminal = Terminal(quiet=config.run.quiet or not place.is_chief)
        stack.callback(terminal.close)
        terminal.note(_describe(topology, place))

        def close() -> None:
            """Write the summary."""
            terminal.close()
            summary.finish(report, timer)
            if place.is_chief:
                try:
                    write_json(place.directory / "summary.json", report)
                except OSError as error:
                    terminal.error(f"no summary in {place.directory}: {error.strerror}")

        first = threading.Lock()

        def end(told: str) -> None:
            """Write how the run ended, and say so; of several threads that know, the first does."""
            if first.acquire(blocking=False):
                report["error"] = told
                terminal.error(told)
                close()

        stacks = place.directory / f"hang-process-{jax.process_index()}.txt"
        stack.enter_context(Watchdog(config.cluster.hang_timeout_seconds, timer, stacks, end))
        task = Task(config, place, record, stop, terminal, timer, report)
        code, together = EXIT_INTERNAL, False
        peers.on_lost = initialize.leaving(end)
        try:
            with ExitStack() as opened:
                Run(task, opened).fit()
            _wait_for_all()
            code, together = EXIT_COMPLETED, True
        except ConfigError:
            raise  # the directory belongs to a run of another meaning: nothing is written to it
        except TrainerError as error:
            report["status"] = "preempted" if isinstance(error, Preempted) else "failed"
            code, together = error.exit_code, error.everywhere
            end(str(error))
            if together:
                _wait_for_all()
        except Exception as error:
            if jax.process_count() > 1 and collectives.tells_of_a_loss(error):
                code = PeerLost.exit_code
                end(f"lost {peers.blame()} ({first_line(error)}): {initialize.AGAIN}")
            elif _tells_of_memory(error):
                end(
                    f"out of memory ({first_line(error)}): make model.hidden_sizes, "
                    "train.global_batch_size or train.eval_batch_size smaller, or use more "
                    "devices"
                )
            else:
                traceback.print_exc()
                end(first_line(error, kind=True))
        else:
            report["status"] = "completed"
            close()
        peers.close()
        if place.is_chief and report["steps"]:
            terminal.summary(summary.rows(place.directory, report))
        if not together and jax.process_count() > 1:
            hard_exit(code)
    return code


def _wait_for_all() -> None:
    """Stay, and be heard, until process 0 has closed its files: a process that ends looks lost."""
    try:
        collectives.share(lambda: None)
    except Exception as error:
        if not collectives.tells_of_a_loss(error):  # one that is lost now takes nothing away
            raise


def _tells_of_memory(error: Exception) -> bool:
    told = str(error)  # XLA says RESOURCE_EXHAUSTED of a full disk as well
    found = MEMORY.search(told) is not None and os.strerror(errno.ENOSPC) not in told
    return isinstance(error, MemoryError) or found


def _describe(topology: Topology, place: ProcessContext) -> str:
    processes = jax.process_count()
    return (
        f"{processes} {'process' if processes == 1 else 'processes'} ({topology.evidence}), "
        f"{place.mesh.size} x {jax.devices()[0].device_kind}, in {place.directory}"
    )
