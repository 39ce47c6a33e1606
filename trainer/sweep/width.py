"""sweep.parallel: how many trials train side by side, and the share of each.

`auto` on the cores of a CPU measures the real training. The first trial begins alone. When its
speed is known, a second one begins, and the first keeps half of its cores. As long as all together
are faster than half as many were, their number doubles, up to one core each. When they are slower,
the last ones stop, to be resumed later, and the others get the cores back.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby

from trainer.job import processes
from trainer.sweep import shares
from trainer.sweep.child import Child
from trainer.sweep.shares import Share

AUTO = "auto"
_SECONDS, _DISPATCHES = 2.0, 3  # of a measurement, at least
_LOOK_SECONDS = 0.25  # between looks at the logs
_SHORT_SECONDS = 20.0  # start-up is a large part of a trial that takes less, and it uses one core
_TAIL = 2**18  # bytes at the end of metrics.jsonl that are read: far more than a measurement has


class Width:
    """The shares that exist now; share i belongs to the child at work in place i."""

    def __init__(self, parallel: int | str, environ: Mapping[str, str]) -> None:
        """Divide this machine; `parallel`: sweep.parallel.

        Raises:
            ConfigError: it cannot be divided so.
        """
        machine = shares.machine(environ)
        total, what = machine.divided
        self._measures = parallel == AUTO and what == "cores" and total > 1
        self._environ = processes.environment(environ, 1, 0, "")
        self._cores = machine.cores
        if self._measures:
            self.shares = self._halves(1)
        else:
            count = total if parallel == AUTO else int(parallel)
            self.shares = shares.divide(machine, count, environ)
        self._first: Child | None = None  # whose speed is measured
        self._since: float | None = None  # unix seconds; None: not all children train yet
        self._before = 0.0  # the speed of half as many
        self._resident = 0  # bytes of memory of a child
        self._next = 0.0  # monotonic seconds

    def free(self, at_work: Mapping[int, Child]) -> int | None:
        """Return a place for one more child; None if there is none."""
        return next((i for i in range(len(self.shares)) if i not in at_work), None)

    def look(
        self, at_work: Mapping[int, Child], waiting: bool, note: Callable[[str], object]
    ) -> None:
        """Widen or narrow, if it is time to; `note` gets what was measured.

        Children whose place ceases to exist are asked to stop. `waiting`: whether there are more
        trials to train.
        """
        if not self._measures or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        first, count = at_work.get(0), len(self.shares)
        if self._first is not None and first is not self._first:  # it has ended
            if time.time() - self._first.began < _SHORT_SECONDS:
                self._settle(self._most(0), at_work, note)
            else:
                self._settle(count, at_work, note)
            return
        self._first = first
        if first is not None:
            self._resident = processes.resident(first.process) or self._resident
        if len(at_work) < count:
            self._measures = waiting  # else nothing will ever fill the shares
            return
        if self._since is None:
            logged = [speeds(child, child.began) for child in at_work.values()]
            self._since = time.time() if all(logged) else None
            return
        assert first is not None
        measured = speeds(first, self._since)[1:]  # the first dispatch had begun before
        if time.time() - self._since < _SECONDS or len(measured) < _DISPATCHES:
            return
        speed = count * len(measured) / sum(1 / one for one in measured)
        note(f"sweep.parallel=auto: {count} at once train {speed:,.0f} examples/s")
        if speed < self._before:
            self._settle(count // 2, at_work, note)
        elif not waiting or 2 * count > self._most(count):
            self._settle(count, at_work, note)
        else:
            self._before, self._since = speed, None
            self._divide(2 * count, at_work)

    def _most(self, now: int) -> int:
        """Return how many the cores and the memory suffice for, a power of two; `now` there are."""
        room = processes.available_memory() // self._resident if self._resident else math.inf
        most = max(1, min(len(self._cores), now + room))
        return 1 << (int(most).bit_length() - 1)

    def _settle(
        self, count: int, at_work: Mapping[int, Child], note: Callable[[str], object]
    ) -> None:
        self._measures = False
        self._divide(count, at_work)
        note(f"sweep.parallel=auto: {count} at once from now on")

    def _divide(self, count: int, at_work: Mapping[int, Child]) -> None:
        self.shares = self._halves(count)
        for place, child in at_work.items():
            if place < count:
                processes.move(child.process, self.shares[place].cores or ())
            else:
                child.stop()

    def _halves(self, count: int) -> list[Share]:
        return [Share(self._environ, part) for part in shares.halves(self._cores, count)]


def speeds(child: Child, since: float) -> Sequence[float]:
    """Return the examples per second of each dispatch that a child has logged since then."""
    points = list[dict[str, object]]()
    with suppress(OSError), (child.run / "metrics.jsonl").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        for line in file:
            with suppress(ValueError):  # cut at its beginning, or not yet written to its end
                points.append(json.loads(line))
    new = [p for p in points if p.get("split") == "train" and float(str(p["time"])) > since]
    # The points of a dispatch have one speed.
    found = [float(str(speed)) for speed, _ in groupby(p["examples_per_second"] for p in new)]
    return [speed for speed in found if math.isfinite(speed) and speed > 0]
