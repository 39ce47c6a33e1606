"""Trains the members of a sweep one after the other, and keeps its table up to date."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from trainer.job import directory as rundir
from trainer.job import lock
from trainer.job.errors import EXIT_COMPLETED, EXIT_INTERNAL, EXIT_RETRY, Preempted
from trainer.job.signals import StopRequest
from trainer.sweep import folder as sweep_folder
from trainer.sweep import supervisor, trial
from trainer.sweep.combine import Member
from trainer.sweep.plan import arguments
from trainer.sweep.ranking import Result
from trainer.sweep.results import show_results
from trainer.tracking.terminal import Terminal


class Conductor:
    """Holds the sweep's folder while it trains, and shows the results in the end."""

    def __init__(
        self,
        folder: Path,
        fixed: Sequence[str],
        total: int,
        terminal: Terminal,
        stop: StopRequest,
    ) -> None:
        """Describe the sweep.

        Args:
            folder: of it.
            fixed: the overrides that all members have in common and that matter.
            total: how many members there are.
            terminal: what a person sees.
            stop: whether somebody asked for a stop.
        """
        self.folder = folder
        self._fixed, self._total = fixed, total
        self._terminal, self._stop = terminal, stop
        self._codes: list[int] = []  # of the members so far
        self._stack = ExitStack()

    def __enter__(self) -> Conductor:
        """Take the folder.

        Raises:
            ConfigError: it cannot be written, or another job is at it.
        """
        rundir.make(self.folder)
        self._stack.enter_context(lock.hold(self.folder, sweep_folder.LOCK, "sweep"))
        self._terminal.note(f"sweep of {self._total} members in {self.folder}")
        return self

    def __exit__(self, *_: object) -> None:
        """Show the results, also after a stop or an error, and leave the folder."""
        with self._stack:
            self._terminal.close()
            if self._codes:
                show_results(self.folder, self._terminal.warn)

    @property
    def code(self) -> int:
        """0 when all are completed, else the code of those that failed; 70 if they have several."""
        failures = set(self._codes) - {EXIT_COMPLETED}
        return (failures or {EXIT_COMPLETED}).pop() if len(failures) < 2 else EXIT_INTERNAL

    @property
    def failed(self) -> bool:
        """Whether all members so far have failed."""
        return bool(self._codes) and EXIT_COMPLETED not in self._codes

    def add(self, members: Sequence[Member]) -> None:
        """Write down members before they are trained.

        Raises:
            ConfigError: the folder holds another sweep.
            SaveError: it cannot be written.
        """
        with sweep_folder.writing(self.folder):
            sweep_folder.write_plan(self.folder, self._fixed, members)

    def train(self, member: Member) -> Result:
        """Train a member unless it is finished, and return how it stands then.

        Raises:
            Preempted: asked to stop; what the member has done is saved.
            SaveError: the folder cannot be written.
        """
        number, directory = len(self._codes) + 1, self.folder / member.name
        label = f"{number}/{self._total} {member.name}"
        if trial.finished(directory):
            self._codes.append(EXIT_COMPLETED)
            self._terminal.note(f"{label}: finished before")
            return trial.result(self.folder, member.name, member.values)
        if self._stop():
            raise Preempted(f"{self._stop.signal_name}: the same command goes on from here")

        def look(line: str) -> None:
            self._terminal.work(label, number - 1, self._total, " ".join(line.split()))

        rundir.create(directory)
        with sweep_folder.writing(self.folder):
            trial.begin(directory)
            code, error = supervisor.train(
                arguments(self.folder, member), directory / trial.OUTPUT, self._stop, look
            )
            if code == EXIT_COMPLETED and not trial.finished(directory):
                code, error = EXIT_INTERNAL, "ended without a summary"
            trial.end(directory, code, error)
            result = trial.result(self.folder, member.name, member.values)
            self._codes.append(code)
            if code != EXIT_RETRY:
                self._terminal.work(label, number, self._total, "")
            self._terminal.note(f"{label}: {_told(result)}")
            with sweep_folder.turn(self.folder):
                sweep_folder.write_table(self.folder)
        if code == EXIT_RETRY:
            raise Preempted(f"{member.name}: {error}; the same sweep goes on from there")
        return result


def _told(result: Result) -> str:
    if result.status != "completed":
        return f"{result.status}: {result.error}"
    starts = f", {result.starts} starts" if result.starts and result.starts > 1 else ""
    accuracy = "" if result.test_accuracy is None else f", test accuracy {result.test_accuracy:.2%}"
    seconds = "" if result.seconds is None else f", {result.seconds:.1f} s"
    return f"completed{accuracy}{seconds}{starts}"
