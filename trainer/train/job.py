"""One job: from a configuration to an exit code and a summary, whatever happens in between."""

import errno
import os
import re
import shlex
import sys
import threading
import traceback
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax

from trainer.config.compose import Job
from trainer.config.schema import Config
from trainer.distributed import collectives, initialize
from trainer.distributed.initialize import ProcessContext
from trainer.distributed.topology import Topology, resolve
from trainer.job import directory as run_directory
from trainer.job.errors import (
    EXIT_COMPLETED,
    EXIT_INTERNAL,
    EXIT_SAVE,
    ConfigError,
    PeerLost,
    Preempted,
    TrainerError,
    first_line,
)
from trainer.job.exit import MESSAGE_SECONDS, hard_exit, hard_exit_later, watchdog
from trainer.job.files import ignoring, read_bytes, read_or_empty, write_json
from trainer.job.signals import StopRequest
from trainer.tracking import runs, summary
from trainer.tracking.goodput import PhaseTimer, process_seconds
from trainer.tracking.terminal import Terminal
from trainer.train.build import Run
from trainer.train.loop import train

OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)


def run(job: Job, stop: StopRequest) -> int:
    """Train, or resume training, as the configuration says; return the exit code.

    A process that fails while the others do not exits here, at once: they do not know of it, and
    an orderly exit would wait for them. `stop` says whether this process was asked to stop.

    Raises:
        TrainerError: this job has no run directory that it may write to.
    """
    timer = PhaseTimer(process_seconds())
    topology = resolve(job.config.cluster, os.environ)
    alone = topology.num_processes == 1
    if not alone and is_finished(job):
        return EXIT_COMPLETED
    # Processes that end together disconnect together. One that cannot exits after this time; the
    # slowest may have to wait for an evaluation of the others.
    limit = job.config.cluster.heartbeat_timeout_seconds + MESSAGE_SECONDS
    try:
        code = _run(job, stop, timer, topology)
    except TrainerError as error:
        if not alone:
            if not error.everywhere:
                hard_exit(error.exit_code, partial(Terminal().error, str(error), error.label))
            hard_exit_later(limit, error.exit_code)
        raise
    except Exception as error:
        if alone:
            raise
        if collectives.is_peer_loss(error):
            lost = initialize.exit_on_loss(Terminal().error)
            lost(f"lost another process at the start ({first_line(error)})")
        # As text: another thread prints it, where this error is not the current one.
        hard_exit(EXIT_INTERNAL, partial(print, traceback.format_exc(), file=sys.stderr))
    if not alone:
        hard_exit_later(limit, code)
    return code


def _run(job: Job, stop: StopRequest, timer: PhaseTimer, topology: Topology) -> int:
    config = job.config
    with ExitStack() as stack:
        with timer.phase("startup"):
            process, heartbeat = initialize.initialize(
                config, job.experiment, topology, stop, stack
            )
        report = summary.begin(job.experiment, config.train.global_batch_size, timer)
        report["devices"], report["processes"] = process.mesh.size, jax.process_count()
        report["platform"] = jax.default_backend()
        terminal = Terminal(quiet=config.run.quiet or not process.is_chief)
        stack.callback(terminal.close)
        terminal.note(_describe(topology, process))

        def write_summary() -> bool:
            """Write the summary, and return whether it is there."""
            terminal.close()
            summary.finish(report, timer)
            if process.is_chief:
                try:
                    report["environment"] = runs.last_start(process.directory)
                    write_json(process.directory / "summary.json", report)
                except OSError as error:
                    terminal.error(f"no summary in {process.directory}: {error.strerror}")
                    return False
            return True

        first = threading.Lock()

        def fail(message: str, label: str = TrainerError.label) -> None:
            """Report why the run ends; only the first of several threads that call this does."""
            if first.acquire(blocking=False):
                report["error"] = message
                terminal.error(message, label)
                write_summary()

        stacks = process.directory / f"hang-process-{jax.process_index()}.txt"
        stack.enter_context(watchdog(config.cluster.hang_timeout_seconds, timer, stacks, fail))
        heartbeat.on_lost = initialize.exit_on_loss(fail)
        code, together = EXIT_INTERNAL, False  # together: all processes end in this way
        try:
            with ExitStack() as files:
                with timer.phase("startup"):
                    run = Run(config, process, job.record, stop, terminal, timer, report, files)
                train(run)
            _wait_for_all()
            code, together = EXIT_COMPLETED, True
        except ConfigError as error:
            # Else the directory belongs to a run with other options: nothing is written to it.
            if not (process.directory / run_directory.CHECKPOINTS).exists():
                report["error"] = str(error)
                write_summary()
            raise
        except TrainerError as error:
            report["status"] = "preempted" if isinstance(error, Preempted) else "failed"
            code, together = error.exit_code, error.everywhere
            fail(str(error), error.label)
            if together:
                _wait_for_all()
        except Exception as error:
            if jax.process_count() > 1 and collectives.is_peer_loss(error):
                code = PeerLost.exit_code
                fail(f"lost {heartbeat.find_lost()} ({first_line(error)}): {initialize.AGAIN}")
            elif _is_out_of_memory(error):
                fail(
                    f"out of memory ({first_line(error)}): make model.hidden_sizes, "
                    "train.global_batch_size or train.eval_batch_size smaller, or use more "
                    "devices"
                )
            else:
                traceback.print_exc()
                fail(first_line(error, kind=True))
        else:
            report["status"] = "completed"
            code = code if write_summary() else EXIT_SAVE
        heartbeat.close()
        if process.is_chief and report["steps"]:
            rows = summary.rows(process.directory, report)
            rows += _commands(config, process.directory, resume=report["status"] == "preempted")
            terminal.summary(rows)
        if not together and jax.process_count() > 1:
            hard_exit(code)
    return code


def is_finished(job: Job) -> bool:
    """Return whether this very job has completed, and say so.

    Its scheduler may start one process of it again when the others have ended: Kubernetes does, if
    a pod is killed just then. That process would wait for the others, time after time.
    """
    run = job.config.run
    if run.dir is None and run.name is None:
        return False
    directory = run_directory.choose(run.root, job.experiment, run.name, run.dir)
    before = None
    with ignoring(path := directory / ".hydra" / "config.yaml"):
        before = read_bytes(path)
    last = read_or_empty(directory / "summary.json", summary.SHAPE)
    if last.get("status") != "completed" or before != job.record["config.yaml"].encode():
        return False
    Terminal(quiet=run.quiet).note(f"{directory} is completed, with these options")
    return True


def _commands(config: Config, directory: Path, *, resume: bool) -> list[tuple[str, str]]:
    """Return what to type next, for the closing table."""
    typed = os.environ.get("TRAINER_COMMAND", "").strip()  # what has started this
    script = re.match(r"\S*scripts/", typed)
    follow = f"{script[0]}dashboard" if script else "python -m trainer dashboard"
    shown = Path(os.environ.get("TRAINER_RUN_ROOT") or "runs").absolute()  # without a folder
    if shown not in directory.parents:
        follow += f" {shlex.quote(str(directory.parent))}"
    if not resume:
        return [("follow it with", follow)]
    again = typed or "the same command, with"
    if config.run.name is None and config.run.dir is None:
        again += f" run.name={directory.name}"
    return [("follow it with", follow), ("resume it with", again.removesuffix(", with"))]


def _wait_for_all() -> None:
    """Keep running until process 0 has closed its files: an ended process would look lost to it."""
    try:
        collectives.share(lambda: None)
    except Exception as error:
        if not collectives.is_peer_loss(error):  # a process lost now changes nothing
            raise


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)  # XLA says RESOURCE_EXHAUSTED for a full disk, too
    matches = OUT_OF_MEMORY.search(text) is not None and os.strerror(errno.ENOSPC) not in text
    return isinstance(error, MemoryError) or matches


def _describe(topology: Topology, process: ProcessContext) -> str:
    processes = jax.process_count()
    # The shorter one fits 80 columns; the closing table has the whole path.
    directory = min(str(process.directory), os.path.relpath(process.directory), key=len)
    return (
        f"{processes} {'process' if processes == 1 else 'processes'} ({topology.evidence}), "
        f"{process.mesh.size} x {jax.devices()[0].device_kind}, in {directory}"
    )
