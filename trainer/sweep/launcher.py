"""Trains the trials of a sweep: one after the other, or a single one as a task of a job array."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from trainer.distributed import topology
from trainer.job import directory, lock, processes
from trainer.job.errors import EXIT_INTERNAL, EXIT_RETRY, ConfigError, Preempted, writing
from trainer.job.files import regular, write_json
from trainer.job.signals import StopRequest
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import Trial
from trainer.sweep.plan import Plan
from trainer.sweep.report import formatted, metric_of, show_results
from trainer.tracking.terminal import Terminal

_LOOK_SECONDS = 0.05  # between looks at the output of a trial


def train_all(plan: Plan, trials: Iterable[Trial], total: int, stop: StopRequest) -> int:
    """Train `total` trials one after the other, each in a child process; return the exit code.

    It is 0 if all have completed, else the code of those that failed, 70 if their codes differ.
    The trials are iterated while the folder is locked, each taken when the one before has ended.

    Raises:
        ConfigError: several processes were started, or another job is at this sweep.
        Preempted: asked to stop; the trial at work has saved.
        SaveError, ConfigError: the folder cannot be written.
    """
    config = plan.jobs[0].config
    started = topology.resolve(config.cluster, os.environ)
    if started.num_processes > 1:
        raise ConfigError(
            f"-m: {started.num_processes} processes were started ({started.evidence})",
            "start a sweep once, or start each trial as a job of its own with --member I",
        )
    terminal, codes = Terminal(quiet=config.run.quiet), set[int]()
    directory.make(plan.folder)
    with lock.hold(plan.folder, sweep_folder.LOCK, "sweep"):
        terminal.note(f"sweep of {total} trials in {plan.folder}")
        known = [] if plan.search else plan.trials
        sweep_folder.add(plan.folder, plan.fixed, known, terminal.warn)
        try:
            for number, trial in enumerate(trials, 1):
                label = f"{number}/{total} {trial.name}"
                if sweep_folder.finished(plan.folder / trial.name):
                    terminal.note(f"{label}: finished before")
                    codes.add(0)
                    continue
                look = partial(terminal.work, label, number - 1, total)
                code, error = EXIT_RETRY, stop.signal_name
                if not stop():
                    code, error = _train(plan.folder, trial, stop, look)
                codes.add(code)
                if code == EXIT_RETRY:
                    raise Preempted(f"{label}: {error}; the same command resumes the sweep")
                terminal.work(label, number, total, "")
                result = sweep_folder.result(plan.folder, trial.name, trial.values)
                metric, form = metric_of([result])
                scores = {"validation": result.score, "test": result.test_score}
                done = "completed"
                for split, score in scores.items():
                    if score is None:
                        continue
                    done += f", {split} {metric} {formatted(score, form)}"
                done += f", {result.seconds or 0:.1f} s"
                done += f", {result.starts} starts" if (result.starts or 1) > 1 else ""
                terminal.note(f"{label}: {f'failed: {error}' if code else done}")
        finally:
            terminal.close()
            if codes:
                show_results(plan.folder, terminal.warn)
    return EXIT_INTERNAL if len(codes - {0}) > 1 else max(codes, default=0)


def _train(
    folder: Path, trial: Trial, stop: StopRequest, look: Callable[[str], object]
) -> tuple[int, str | None]:
    """Train a trial in a child process; return its exit code and its error.

    If this process is asked to stop, the child is asked too: it saves and exits with 75. If this
    process dies, the kernel kills the child. `look` is called with the last line of its output.
    """
    run = folder / trial.name
    output, ending = run / sweep_folder.OUTPUT, run / sweep_folder.ENDING
    directory.create(run)
    with writing(folder), open(output, "ab", opener=regular) as log:
        ending.unlink(missing_ok=True)  # of an earlier start
        begin, asked = log.tell(), False
        command = [sys.executable, "-m", "trainer", *trial.overrides]
        child = processes.start(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            while not processes.wait([child], _LOOK_SECONDS):
                if stop() and not asked:
                    asked = True
                    child.send_signal(signal.SIGTERM)
                look((_last_lines(output, begin) or ["starting"])[-1])
        finally:
            processes.end([child])
        code, error = child.returncode, None
        if code < 0:
            error = f"killed by {signal.Signals(-code).name}"
            early = asked and code == -signal.SIGTERM  # before it handled signals
            code = EXIT_RETRY if early else EXIT_INTERNAL
        elif code:
            lines = _last_lines(output, begin) or [f"exit code {code}"]
            errors = [line for line in lines if re.match("(error|stopped): ", line)] or lines
            error = re.sub("^(error|stopped): ", "", errors[-1])
        write_json(ending, {"exit_code": code, "error": error})
    return code, error


def _last_lines(path: Path, begin: int) -> list[str]:
    """Return the last lines of a file, but none from before byte `begin`; no empty ones."""
    with path.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - 8192))
        text = file.read().decode(errors="replace")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def train_one(plan: Plan, index: int, stop: StopRequest) -> int:
    """Train one trial in this process, next to other tasks of a job array; return its exit code.

    A task may have several processes with the same command line; only the first one writes. Raises
    what trainer.train.job.run() raises.
    """
    count = len(plan.trials)
    if not 0 <= index < count:
        raise ConfigError(f"--member {index}: the sweep has {count} trials: use 0 to {count - 1}")
    job, run = plan.jobs[index], plan.folder / plan.trials[index].name
    first = topology.resolve(job.config.cluster, os.environ).process_id == 0
    terminal = Terminal(quiet=job.config.run.quiet or not first)
    if sweep_folder.finished(run):
        terminal.note(f"{run.name} is finished, in {run}")
        return 0
    from trainer.train.job import run as train  # imports jax, so only when the options are right

    if not first:
        return train(job.config, job.experiment, job.record, stop)
    directory.make(plan.folder)
    with lock.hold(plan.folder, sweep_folder.LOCK, "sweep", shared=True):
        sweep_folder.add(plan.folder, plan.fixed, plan.trials, terminal.warn)
        (run / sweep_folder.ENDING).unlink(missing_ok=True)  # of an earlier start
        code = train(job.config, job.experiment, job.record, stop)
        if code != EXIT_RETRY:  # a task that has to stop has no time to draw
            show_results(plan.folder, terminal.warn)
        return code
