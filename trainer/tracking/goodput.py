"""Goodput of a run: where the seconds of all its starts went, kept in goodput.json."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trainer
from trainer.job.files import read_or_empty, to_json

PHASES = ("startup", "compile", "data_wait", "step", "evaluate", "save", "restore")


class PhaseTimer:
    """Seconds spent in each phase, by the clock of this process."""

    def __init__(self, startup_seconds: float = 0.0) -> None:
        """Start; `startup_seconds` have passed before."""
        self._began = time.perf_counter() - startup_seconds
        self.seconds = dict.fromkeys(PHASES, 0.0) | {"startup": startup_seconds}
        self.now = "startup"  # the current phase
        self._inner = 0.0  # seconds of phases inside the current one
        self.alive()

    def alive(self) -> None:
        """Note a sign of life, as the start and the end of each phase do."""
        self.seen_alive = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a phase, without that of phases inside it."""
        outer, self._inner = self._inner, 0.0
        outer_name, self.now = self.now, name
        start = time.perf_counter()
        self.alive()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] += seconds - self._inner
            self._inner = outer + seconds
            self.now = outer_name
            self.alive()

    @property
    def elapsed(self) -> float:
        """Seconds since the start, in phases or not."""
        return time.perf_counter() - self._began

    @property
    def parts(self) -> dict[str, float]:
        """Seconds since the start, by what they were spent on.

        compute: handing steps to the devices and waiting for their results; data_wait: for batches;
        rest: evaluations, saving, logging, compiling.
        """
        compute, wait = self.seconds["step"], self.seconds["data_wait"]
        return {"compute": compute, "data_wait": wait, "rest": self.elapsed - compute - wait}

    @property
    def training(self) -> float:
        """Seconds of training: steps, waiting for data, and what saving held up."""
        return sum(self.seconds[name] for name in ("data_wait", "step", "save"))


def process_seconds() -> float:
    """Return the seconds since Python began to import the trainer.

    The process may be older: scripts/train installs packages before its `exec`.
    """
    return time.monotonic() - trainer.BEGAN


SHAPE = {
    "starts?": int,
    "seconds?": {"*": float},
    "lost_steps?": int,
    "lost_seconds?": float,
    "reached_step?": int,
    "seconds_per_step?": float,
}
WRITE_SECONDS = 1.0  # between two writes: what a start that is killed loses of its account


class Ledger:
    """The account of all starts of a run, this one included; process 0 alone has one."""

    def __init__(
        self,
        path: Path,
        timer: PhaseTimer,
        resume_step: int,
        logged_step: int = 0,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Read the account of earlier starts at `path`; if it is damaged, warn and begin a new one.

        Those starts have lost the steps that they did after `resume_step`. The last step that they
        logged is `logged_step`: they may have been killed after it, and before the next write here.
        """
        self._path, self.timer = path, timer
        empty = {"starts": 0, "seconds": {}, "lost_steps": 0, "lost_seconds": 0.0}
        empty |= {"reached_step": 0, "seconds_per_step": 0.0}
        before: dict[str, Any] = empty | read_or_empty(path, SHAPE, warn)
        before["seconds"] = dict.fromkeys(PHASES, 0.0) | before["seconds"]
        reached, each = max(before["reached_step"], logged_step), before["seconds_per_step"]
        lost = max(0, reached - resume_step)
        before["seconds"]["step"] += (reached - before["reached_step"]) * each
        before["lost_steps"] += lost
        before["lost_seconds"] += lost * each
        self._before = before
        self._first_step = self._step = resume_step
        self._written = 0.0
        self.write(resume_step, now=True)

    def write(self, step: int, *, now: bool = False) -> None:
        """Update the file, at most once a second unless `now`; nothing waits for the disk."""
        self._step = step
        if now or time.monotonic() - self._written > WRITE_SECONDS:
            self._written = time.monotonic()
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            with suppress(OSError):  # saving a checkpoint will report a full disk
                temporary.write_text(to_json(self.totals(), indent=2) + "\n")
                temporary.replace(self._path)

    def totals(self) -> dict[str, Any]:
        """Return the account of all starts as JSON.

        seconds: of each phase; lost_steps, lost_seconds: of steps that were done again after a
        restart; goodput: the fraction of all seconds spent on steps whose result was kept.
        """
        before, spent = self._before, self.timer.seconds
        seconds = {name: before["seconds"][name] + spent[name] for name in PHASES}
        steps = self._step - self._first_step
        useful = seconds["step"] - before["lost_seconds"]
        return before | {
            "starts": before["starts"] + 1,
            "seconds": seconds,
            "reached_step": self._step,
            "seconds_per_step": spent["step"] / steps if steps else before["seconds_per_step"],
            "goodput": useful / max(sum(seconds.values()), 1e-9),
        }
