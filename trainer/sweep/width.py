"""sweep.parallel: how many trials train at once, and the share of each.

`auto` on the cores of a CPU measures the real training. The first trial begins alone. Once its
speed is known it saves and stops, and as many as there are cores start, the first one among them,
to resume. If all trials take longer this way than one after the other, by the speed of the first
one in both, half as many are tried, down to one.
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
from trainer.sweep import shares
from trainer.sweep.child import Child
from trainer.sweep.folder import finished
from trainer.sweep.shares import Share

AUTO = "auto"
_SECONDS, _DISPATCHES = 2.0, 3  # of a measurement, at least
_LOOK_SECONDS = 0.25  # between looks at the logs
_SHORT_SECONDS = 20.0  # of a trial that takes less, start-up is a large part, and it uses one core
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
        self._first: Child | None = None  # in place 0: its speed is measured
        self._since: float | None = None  # unix seconds; None: not all children train yet
        self._alone = 0.0  # the speed of the first trial alone, in examples per second
        self._resident = 0  # bytes of memory of a child
        count = total if parallel == AUTO else int(parallel)
        self.shares = self._divided(1 if self._measures else count)

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
        if not self._measures or self._draining or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        first, count = at_work.get(0), len(self.shares)
        if self._first is not None and first is not self._first:  # it ended before it was measured
            if count == 1 and not finished(self._first.run):  # it failed: the next one is measured
                self._first = self._since = None
                return
            short = count == 1 and time.time() - self._first.began < _SHORT_SECONDS
            self._settle(self._most(waiting) if short else count, at_work)
            return
        self._first = first
        if first is not None:
            self._resident = processes.resident(first.process) or self._resident
        if not waiting and len(at_work) < max(count, 2):
            self._measures = False  # there is nothing left to decide
        elif first is None or self._since is None:
            train = len(at_work) == count and all(speeds(c, c.began) for c in at_work.values())
            self._since = time.time() if train else None
        else:
            measured = speeds(first, self._since)[1:]  # the first dispatch had begun before
            if time.time() - self._since >= _SECONDS and len(measured) >= _DISPATCHES:
                speed = len(measured) / sum(1 / one for one in measured)
                self._decide(speed, at_work, len(at_work) + waiting)

    def _decide(self, speed: float, at_work: Mapping[int, Child], left: int) -> None:
        """Compare the speed of the first trial with that alone; `left`: trials to be completed."""
        count = len(self.shares)
        self._note(f"sweep.parallel=auto: {count} at once: {speed:,.0f} examples/s each")
        if count == 1:
            self._alone, count = speed, self._most(left)
        elif math.ceil(left / count) / speed <= left / self._alone:
            self._settle(count, at_work)
            return
        else:
            count //= 2
        if count == 1:
            self._settle(count, at_work)
        else:
            self._change(count, at_work)

    def _most(self, left: int) -> int:
        """Return how many trials can train at once, of those left, in cores and memory."""
        room = processes.available_memory() // self._resident if self._resident else left
        return max(1, min(left, len(self._machine.cores), room))

    def _settle(self, count: int, at_work: Mapping[int, Child]) -> None:
        self._measures = False
        self._note(f"sweep.parallel=auto: {count} at once from now on")
        self._change(count, at_work)

    def _change(self, count: int, at_work: Mapping[int, Child]) -> None:
        """Ask all children to stop if there will be another number of shares."""
        if count != len(self.shares):
            self.shares, self._draining = self._divided(count), True
            self._first = self._since = None
            for child in at_work.values():
                child.stop()

    def _divided(self, count: int) -> list[Share]:
        return shares.divide(self._machine, count, self._environ)


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
