"""The goodput account of a run: where the seconds of all its starts went, kept over restarts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trainer
from trainer.job.files import to_json

PHASES = ("startup", "compile", "data_wait", "step", "evaluate", "save", "restore")


class PhaseTimer:
    """Seconds spent in each phase, by the clock of this process."""

    def __init__(self, startup_seconds: float = 0.0) -> None:
        """Begin; `startup_seconds` have passed before."""
        self._began = time.perf_counter() - startup_seconds
        self.seconds = dict.fromkeys(PHASES, 0.0) | {"startup": startup_seconds}
        self.now = "startup"  # the phase that is open
        self._inner = 0.0  # seconds already given to phases inside the one that is open
        self.alive()

    def alive(self) -> None:
        """Note a sign of life; the beginning and the end of each phase are one."""
        self.seen_alive = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a phase, less that of phases inside it."""
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
        """Seconds since the beginning, in phases or not."""
        return time.perf_counter() - self._began

    @property
    def training(self) -> float:
        """Seconds of training: stepping, waiting for data, and what saving held up."""
        return sum(self.seconds[name] for name in ("data_wait", "step", "save"))


def process_seconds() -> float:
    """Return the seconds since Python began to import the trainer.

    Not since the process began: `exec` keeps the time of the script that came before, of
    scripts/train for example, which may have installed packages.
    """
    return time.monotonic() - trainer.BEGAN


class Laps:
    """Milliseconds a step, from one look to the next."""

    def __init__(self, timer: PhaseTimer) -> None:
        """Begin now; the account is of this process."""
        self._timer = timer
        self._last = self._read()

    def lap(self, steps: int) -> dict[str, float]:
        """Return the milliseconds a step since the last call, in which `steps` steps were done.

        compute: handing steps to the devices and waiting for their results; data_wait: for batches;
        rest: evaluations, saving, logging, compiling. They add up to the time by the clock.
        """
        now = self._read()
        wall, compute, wait = (b - a for a, b in zip(self._last, now, strict=True))
        self._last = now
        each = 1000 / steps
        rest = max(0.0, wall - compute - wait)
        return {"compute": compute * each, "data_wait": wait * each, "rest": rest * each}

    def _read(self) -> tuple[float, float, float]:
        seconds = self._timer.seconds
        return time.perf_counter(), seconds["step"], seconds["data_wait"]


WRITE_SECONDS = 1.0  # how much of a killed start's account is lost at most


class Ledger:
    """Adds this start's account to those of the starts before it; used by process 0 alone."""

    def __init__(
        self, path: Path, timer: PhaseTimer, resume_step: int, logged_step: int = 0
    ) -> None:
        """Read the account so far, and count this start in; a missing or damaged file begins anew.

        Args:
            path: of goodput.json.
            timer: of this start.
            resume_step: where this start goes on; steps done beyond it are work lost.
            logged_step: the last that the start before it had logged, maybe after its last write.
        """
        self._path = path
        self._timer = timer
        self._before = before = _read(path)
        unwritten = max(0, logged_step - before["reached_step"])
        before["seconds"]["step"] += unwritten * before["seconds_per_step"]
        lost = max(0, before["reached_step"] + unwritten - resume_step)
        before["lost_steps"] += lost
        before["lost_seconds"] += lost * before["seconds_per_step"]
        self._first_step = self._step = resume_step
        self._written = 0.0
        self.write(resume_step, now=True)

    def write(self, step: int, *, now: bool = False) -> None:
        """Bring the file up to date, at most every second after the first steps unless `now`.

        It is whole whenever a process is killed, but not waited for until it is on the disk.
        """
        first = self._step == self._first_step
        self._step = step
        if now or first or time.monotonic() - self._written > WRITE_SECONDS:
            self._written = time.monotonic()
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            with suppress(OSError):  # a full disk is for the checkpoints to tell
                temporary.write_text(to_json(self.totals(), indent=2) + "\n")
                temporary.replace(self._path)

    def totals(self) -> dict[str, Any]:
        """Return the account of all starts: JSON.

        seconds of each phase; starts; steps that were done again after a roll-back and the seconds
        they had taken; the step reached; goodput, the fraction of all seconds that went into steps
        whose result was kept.
        """
        before = self._before
        seconds = {name: before["seconds"][name] + self._timer.seconds[name] for name in PHASES}
        steps = self._step - self._first_step
        pace = self._timer.seconds["step"] / steps if steps else before["seconds_per_step"]
        useful = seconds["step"] - before["lost_seconds"]
        return {
            "starts": before["starts"] + 1,
            "seconds": seconds,
            "lost_steps": before["lost_steps"],
            "lost_seconds": before["lost_seconds"],
            "reached_step": self._step,
            "seconds_per_step": pace,
            "goodput": useful / max(sum(seconds.values()), 1e-9),
        }


def _read(path: Path) -> dict[str, Any]:
    new: dict[str, Any] = {
        "starts": 0,
        "seconds": dict.fromkeys(PHASES, 0.0),
        "lost_steps": 0,
        "lost_seconds": 0.0,
        "reached_step": 0,
        "seconds_per_step": 0.0,
    }
    try:
        found = json.loads(path.read_text())
        seconds = {name: float(found["seconds"][name]) for name in PHASES}
        totals = {name: type(zero)(found[name]) for name, zero in new.items() if name != "seconds"}
        return totals | {"seconds": seconds}
    except (OSError, ValueError, KeyError, TypeError):
        return new
