"""sweep.parallel: how many trials train at once, and the share of each.

`auto` on the cores of a CPU measures the real trials. The first one begins alone, as it would one
after the other. Once it has ended, or trained for 20 seconds (then it saves and stops, to be
resumed), as many as there are cores start. If they are so much slower than the first one alone that
the sweep would take longer, they save and stop, and half as many are tried, down to one.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

from trainer.job import processes
from trainer.job.errors import ConfigError
from trainer.job.files import read_or_empty
from trainer.sweep import shares
from trainer.sweep.child import Child
from trainer.sweep.folder import finished
from trainer.sweep.shares import Share
from trainer.tracking import summary

AUTO = "auto"
_ALONE_SECONDS = 20.0  # of the first trial; start-up is a large part of one that takes less
_SECONDS, _DISPATCHES = 5.0, 3  # of a measurement of the speed of training, at least
_LOOK_SECONDS = 0.25  # between looks at the logs
_TAIL = 2**16  # bytes at the end of metrics.jsonl that are read: more than a measurement needs


class Width:
    """The shares that exist now. Share i belongs to the child at work in place i."""

    def __init__(
        self, parallel: int | str, environ: Mapping[str, str], note: Callable[[str], object]
    ) -> None:
        """Divide this machine; `parallel`: sweep.parallel. `note` gets what is measured.

        Raises:
            ConfigError: it cannot be divided so.
        """
        self._environ, self._machine, self._note = environ, shares.machine(environ), note
        total, what = self._machine.divided
        self._measures = parallel == AUTO and what == "cores" and total > 1
        self._draining = False  # whether children with shares of before are at work
        self._next = 0.0  # monotonic seconds: no look before
        self._first: Child | None = None  # in place 0: it is measured
        self._since: float | None = None  # unix seconds; None: not all children train yet
        self._resident = 0  # bytes of memory of a child
        # Of the first trial alone: its seconds, if it was short; examples per second, if not.
        self._seconds_alone, self._speed_alone = 0.0, 0.0
        self._slowdown = 1.0  # of each child, with which the sweep takes as long as one by one
        count = total if parallel == AUTO else int(parallel)
        self.shares = self._divided(1 if self._measures else count)

    def check(self, devices: int) -> None:
        """Check that each trial gets as many devices as its options ask for.

        Raises:
            ConfigError: it gets fewer.
        """
        total, what = self._machine.divided
        each = 1 if what == "cores" else total // len(self.shares)
        if devices > each:
            message = f"sweep.parallel: a trial gets {each} of {total} {what}, and parallel.devices"
            raise ConfigError(
                f"{message} or parallel.mesh asks for {devices}", "use a smaller sweep.parallel"
            )

    def free(self, at_work: Mapping[int, Child]) -> int | None:
        """Return a place for one more child; None if there is none."""
        self._draining = self._draining and bool(at_work)
        places = range(0 if self._draining else len(self.shares))
        return next((place for place in places if place not in at_work), None)

    def look(self, at_work: Mapping[int, Child], waiting: int) -> None:
        """Change the number of shares, if it is time to.

        Then all children are asked to stop, to be started again before the trials that wait.
        `waiting`: how many do.
        """
        first, left = at_work.get(0), len(at_work) + waiting
        now = time.monotonic()
        if not self._measures or self._draining or (first is self._first and now < self._next):
            return
        self._next = now + _LOOK_SECONDS
        if left < max(2, len(self.shares)):
            self._measures = False  # there is nothing left to decide
        elif self._first is None:
            self._first = first
        elif len(self.shares) == 1:
            self._look_at_one(self._first, first is not self._first, at_work, left)
        else:
            self._look_at_several(self._first, first is not self._first, at_work, left)

    def _look_at_one(
        self, first: Child, ended: bool, at_work: Mapping[int, Child], left: int
    ) -> None:
        """Measure the first trial alone; then start as many as possible, of those left."""
        age = time.time() - first.began
        self._resident = processes.resident(first.process) or self._resident
        if ended:
            self._first = None
            if finished(first.run) and age < _ALONE_SECONDS:
                # Those after it find the programs compiled.
                self._seconds_alone = age - _compiling(first)
                self._note(f"sweep.parallel=auto: {self._seconds_alone:.1f} s for one trial alone")
        elif age >= _ALONE_SECONDS:
            measured = speeds(first, first.began)[1:]  # the first dispatch may contain more
            if len(measured) >= _DISPATCHES:
                self._speed_alone = _mean(measured)
                self._note(f"sweep.parallel=auto: {self._speed_alone:,.0f} examples/s alone")
        if self._seconds_alone or self._speed_alone:
            count = self._most(left)
            self._measures = count > 1
            self._change(count, at_work, left)

    def _look_at_several(
        self, first: Child, ended: bool, at_work: Mapping[int, Child], left: int
    ) -> None:
        """Compare the child in place 0 with the first trial alone."""
        count, age = len(self.shares), time.time() - first.began
        if ended and (self._speed_alone or not finished(first.run)):
            self._first = self._since = None  # the next one is compared
        elif self._seconds_alone:
            most = self._slowdown * self._seconds_alone
            if ended or age > most:
                found = f"{age:.1f} s for each of {count} at once, of {most:.1f} s that would pay"
                self._decide(found, age <= most, at_work, left)
        elif self._since is None:
            train = len(at_work) == count and all(speeds(c, c.began) for c in at_work.values())
            self._since = time.time() if train else None
        elif time.time() - self._since >= _SECONDS:
            measured = speeds(first, self._since)[1:]  # the first dispatch had begun before
            if len(measured) >= _DISPATCHES:
                speed = _mean(measured)
                found = f"{speed:,.0f} examples/s in each of {count} at once"
                pays = speed * self._slowdown >= self._speed_alone
                self._decide(found, pays, at_work, left)

    def _decide(self, found: str, pays: bool, at_work: Mapping[int, Child], left: int) -> None:
        """Keep the number of shares, or halve it; short trials then train one by one."""
        half = len(self.shares) // 2 if self._speed_alone else 1
        count = len(self.shares) if pays else half
        self._measures = count > 1 and not pays
        then = f"try {count}" if self._measures else f"{count} at once from now on"
        self._note(f"sweep.parallel=auto: {found}: {then}")
        self._change(count, at_work, left)

    def _most(self, left: int) -> int:
        """Return how many trials can train at once, of those left, in cores and memory."""
        room = processes.available_memory() // self._resident if self._resident else left
        return max(1, min(left, len(self._machine.cores), room))

    def _change(self, count: int, at_work: Mapping[int, Child], left: int) -> None:
        """Ask all children to stop if there will be another number of shares."""
        if count != len(self.shares):
            self.shares, self._draining = self._divided(count), True
            self._first = self._since = None
            self._slowdown = left / math.ceil(left / count)
            for child in at_work.values():
                child.stop()

    def _divided(self, count: int) -> list[Share]:
        return shares.divide(self._machine, count, self._environ)


def _mean(speeds: Sequence[float]) -> float:
    """Return the mean over equal numbers of examples."""
    return len(speeds) / sum(1 / speed for speed in speeds)


def _compiling(child: Child) -> float:
    """Return the seconds that a trial that has ended took to compile."""
    seconds = read_or_empty(child.run / "summary.json", summary.SHAPE).get("seconds") or {}
    return float(seconds.get("compile", 0.0))


def speeds(child: Child, since: float) -> Sequence[float]:
    """Return the examples per second of each dispatch that a child has logged since then."""
    points = list[dict[str, Any]]()
    with suppress(OSError), (child.run / "metrics.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        for line in file:
            with suppress(ValueError):  # cut at its beginning, or not yet written to its end
                points.append(json.loads(line))
    logged = [
        float(point["examples_per_second"])  # it may be the text NaN
        for point in points
        if point.get("split") == "train" and point["time"] > since
    ]
    # All points of a dispatch have one speed.
    return [speed for speed, _ in groupby(logged) if math.isfinite(speed) and speed > 0]
