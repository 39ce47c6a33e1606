"""Trains the trials of a sweep: several at once, or a single one as a task of a job array."""

import os
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush

from trainer.distributed import topology
from trainer.job import directory, lock, processes
from trainer.job.errors import EXIT_INTERNAL, EXIT_RETRY, ConfigError, Preempted, TrainerError
from trainer.job.signals import StopRequest
from trainer.sweep import folder as sweep_folder
from trainer.sweep.child import Child
from trainer.sweep.folder import Trial
from trainer.sweep.plan import Plan
from trainer.sweep.report import formatted, metric_of, show_results
from trainer.sweep.width import Width
from trainer.tracking.terminal import Terminal

_LOOK_SECONDS = 0.05  # between looks at the output of a trial


def train_all(plan: Plan, batches: Iterable[Sequence[Trial]], total: int, stop: StopRequest) -> int:
    """Train `total` trials, each in a child process; return the exit code.

    As many train at once as sweep.parallel says. The code is 0 if all have completed, else that of
    those that failed, 70 if their codes differ. The batches are iterated while the folder is
    locked, each taken when all trials of the one before have ended.

    Raises:
        ConfigError: several processes were started, this machine cannot be divided as
            sweep.parallel says, or another job is at this sweep.
        Preempted: asked to stop, or a trial was; the trials at work have saved.
        SaveError, ConfigError: the folder cannot be written.
    """
    config = plan.jobs[0].config
    started = topology.resolve(config.cluster, os.environ)
    if started.num_processes > 1:
        raise ConfigError(
            f"-m: {started.num_processes} processes were started ({started.evidence})",
            "start a sweep once, or start each trial as a job of its own with --member I",
        )
    work = _Work(plan, total, stop, Terminal(quiet=config.run.quiet))
    directory.make(plan.folder)
    with lock.hold(plan.folder, sweep_folder.LOCK, "sweep"):
        work.terminal.note(f"sweep of {total} trials in {plan.folder}")
        try:
            for batch in batches:
                sweep_folder.add(plan.folder, plan.fixed, batch, work.terminal.warn)
                work.train(batch)
        finally:
            processes.end([child.process for child in work.at_work.values()])
            work.terminal.close()
            if work.codes:
                show_results(plan.folder, work.terminal.warn)
    return EXIT_INTERNAL if len(work.codes - {0}) > 1 else max(work.codes, default=0)


class _Work:
    """The trials that train now, and how those before them have ended."""

    def __init__(self, plan: Plan, total: int, stop: StopRequest, terminal: Terminal) -> None:
        self.terminal, self._stop = terminal, stop
        self.codes = set[int]()  # of the trials that have ended
        self.at_work = dict[int, Child]()  # place in width.shares -> who trains with that share
        self._folder, self._total = plan.folder, total
        self._trials = list[Trial]()  # of all batches so far, by number
        asked = [job.config.parallel for job in plan.jobs]
        devices = max(p.devices or (p.mesh.replica or 1) * (p.mesh.shard or 1) for p in asked)
        self._width = Width(plan.parallel, devices, os.environ, terminal.note)
        self._ended = 0  # trials
        self._halted = ""  # the first trial that has to be trained further, and why

    def train(self, trials: Sequence[Trial]) -> None:
        """Train these trials; raise Preempted if one has to be trained further."""
        waiting = [*range(len(self._trials), len(self._trials) + len(trials))]  # a heap of numbers
        self._trials += trials
        while self.at_work or (waiting and not self._halting()):
            while waiting and not self._halting():
                place = self._width.free(self.at_work)
                if place is None:
                    break
                self._start(place, heappop(waiting))
            self._show()
            # A look reads the output of each child, so that many are looked at less often.
            children = [child.process for child in self.at_work.values()]
            processes.wait(children, min(_LOOK_SECONDS * len(children), 0.5), until=any)
            for place, child in [*self.at_work.items()]:
                if child.process.poll() is None:
                    if self._stop():
                        child.stop()
                    continue
                del self.at_work[place]
                code, error = child.end(self.terminal.warn)
                if code == EXIT_RETRY and child.asked and not self._stop():
                    # It gets another share, see Width, before those that have not begun.
                    heappush(waiting, child.number)
                else:
                    self._note_end(child.number, code, error)
            self._width.look(self.at_work, len(waiting))
        if waiting and not self._halted:
            self._halted = f"{self._label(waiting[0])}: {self._stop.signal_name}"
        if self._halted:
            raise Preempted(f"{self._halted}; the same command resumes the sweep")

    def _halting(self) -> bool:
        return self._stop() or bool(self._halted)

    def _label(self, number: int) -> str:
        return f"{number + 1}/{self._total} {self._trials[number].name}"

    def _show(self) -> None:
        rows = {self._label(child.number): child.last_line for child in self.at_work.values()}
        self.terminal.rows(self._ended, self._total, rows)

    def _start(self, place: int, number: int) -> None:
        """Start a trial, unless it was finished before, or its folder cannot be written."""
        trial = self._trials[number]
        if sweep_folder.finished(self._folder / trial.name):
            self.terminal.note(f"{self._label(number)}: finished before")
            self.codes.add(0)
            self._ended += 1
            return
        try:
            self.at_work[place] = Child(self._folder, number, trial, self._width.shares[place])
        except TrainerError as error:
            self._note_end(number, error.exit_code, str(error))

    def _note_end(self, number: int, code: int, error: str | None) -> None:
        """Count a trial that has ended, and say how."""
        label, trial = self._label(number), self._trials[number]
        self.codes.add(code)
        if code == EXIT_RETRY:
            self._halted = self._halted or f"{label}: {error}"
            return
        self._ended += 1
        result = sweep_folder.result(self._folder, trial.name, trial.values)
        metric, form = metric_of([result])
        done = "completed"
        for split, score in {"validation": result.score, "test": result.test_score}.items():
            if score is not None:
                done += f", {split} {metric} {formatted(score, form)}"
        done += f", {result.seconds or 0:.1f} s"
        done += f", {result.starts} starts" if (result.starts or 1) > 1 else ""
        self.terminal.note(f"{label}: {f'failed: {error}' if code else done}")


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
        return train(job, stop)
    directory.make(plan.folder)
    with lock.hold(plan.folder, sweep_folder.LOCK, "sweep", shared=True):
        sweep_folder.add(plan.folder, plan.fixed, plan.trials, terminal.warn)
        (run / sweep_folder.ENDING).unlink(missing_ok=True)  # of an earlier start
        code = train(job, stop)
        if code != EXIT_RETRY:  # a task that has to stop has no time to draw
            show_results(plan.folder, terminal.warn)
        return code
