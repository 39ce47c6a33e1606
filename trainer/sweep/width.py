"""sweep.parallel: how many trials train at once, and the share of each.

`auto` on the cores of a CPU measures the real trials. The first one begins alone, as it would one
after the other. Once it has ended, or trained for 20 seconds (then it saves and stops, to be
resumed), as many as there are cores start. If they are so much slower than the first one alone that
the sweep would take longer, they save and stop, and half as many are tried, down to one.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from statistics import harmonic_mean

from trainer.job import processes
from trainer.job.errors import ConfigError
from trainer.job.files import read_or_empty
from trainer.sweep import shares
from trainer.sweep.child import Child
from trainer.sweep.folder import finished
from trainer.tracking import runs, summary

AUTO = "auto"
_ALONE_SECONDS = 20.0  # start-up is a large part of a trial that ends earlier
_SECONDS, _DISPATCHES = 5.0, 3  # of a measurement of the speed of training, at least
_LOOK_SECONDS = 1.0  # between looks at the logs, which are read as a whole


class Width:
    """The shares that exist now. Share i belongs to the child at work in place i."""

    def __init__(
        self,
        parallel: int | str,
        devices: int,
        environ: Mapping[str, str],
        note: Callable[[str], object],
    ) -> None:
        """Divide this machine as `parallel`, sweep.parallel, says.

        A trial asks for `devices`. `note` gets what is measured.

        Raises:
            ConfigError: it cannot be divided so, or a trial would get too few devices.
        """
        self._machine, self._note = shares.machine(environ), note
        self._divided = partial(shares.divide, self._machine, environ=environ)
        total, what = self._machine.divided
        measures = parallel == AUTO and what == "cores" and total > 1
        self._measurement = self._measure() if measures else iter(())
        self._at_work: Mapping[int, Child] = {}
        self._left = 0  # trials that have not ended, those at work among them
        self._draining = False  # whether children with shares of before are at work
        self._seen: Child | None = None  # in place 0, at the last look
        self._next = 0.0  # monotonic seconds: no look before, while that child is at work
        count = total if parallel == AUTO else int(parallel)
        self.shares = self._divided(1 if measures else count)
        each = 1 if what == "cores" else total // len(self.shares)
        if devices > each and parallel != 1:
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
        first, now = at_work.get(0), time.monotonic()
        if self._draining or (first is self._seen and now < self._next):
            return
        self._seen, self._next = first, now + _LOOK_SECONDS
        self._at_work, self._left = at_work, len(at_work) + waiting
        if self._left < max(2, len(self.shares)):
            self._measurement = iter(())  # there is nothing left to decide
        next(self._measurement, None)

    # The generators below are one measurement: each `yield` waits for the next look. All measure
    # the child in place 0, and the next one there where that one fails or ends too early.

    def _measure(self) -> Iterator[None]:
        """Measure one trial alone, then as many as fit, then fewer, until that pays."""
        seconds, speed, resident = yield from self._alone()
        room = processes.available_memory() // resident if resident else self._left
        count = max(1, min(self._left, len(self._machine.cores), room))
        while count > 1:
            # Of each child, with which the sweep takes as long as one by one.
            slowdown = self._left / math.ceil(self._left / count)
            yield from self._change(count)
            if seconds:
                took = yield from self._seconds(slowdown * seconds)
                pays, half = took <= slowdown * seconds, 1  # short trials then train one by one
                measured = f"{took:.1f} s for each of {count} at once"
                measured += f", of {slowdown * seconds:.1f} s that would pay"
            else:
                each = yield from self._speed()
                pays, half = each * slowdown >= speed, count // 2
                measured = f"{each:,.0f} examples/s in each of {count} at once"
            count = count if pays else half
            then = f"{count} at once from now on" if pays or count == 1 else f"try {count}"
            self._note(f"sweep.parallel=auto: {measured}: {then}")
            if pays:
                return
        yield from self._change(1)

    def _alone(self) -> Generator[None, None, tuple[float, float, int]]:
        """Return the seconds of a short trial, or examples per second; and the bytes of memory."""
        seconds = speed = 0.0
        resident = 0
        while not seconds and not speed:
            first = yield from self._first()
            while self._at_work.get(0) is first and not speed:
                yield
                resident = processes.resident(first.process) or resident
                if _age(first) >= _ALONE_SECONDS:
                    speed = _mean(first, first.began)
            if not speed and finished(first.run):
                # Those after it find the programs compiled.
                spent = read_or_empty(first.run / "summary.json", summary.SHAPE).get("seconds")
                seconds = _age(first) - (spent or {}).get("compile", 0.0)
        alone = (
            f"{speed:,.0f} examples/s alone" if speed else f"{seconds:.1f} s for one trial alone"
        )
        self._note(f"sweep.parallel=auto: {alone}")
        return seconds, speed, resident

    def _seconds(self, most: float) -> Generator[None, None, float]:
        """Return the seconds of a short trial beside others; more than `most`: it is at work."""
        while True:
            first = yield from self._first()
            while self._at_work.get(0) is first and _age(first) <= most:
                yield
            took = _age(first)
            if self._at_work.get(0) is first or finished(first.run):
                return took

    def _speed(self) -> Generator[None, None, float]:
        """Return the examples per second of a trial beside others, once all train."""
        speed = 0.0
        while not speed:
            first, since = (yield from self._first()), math.inf
            while self._at_work.get(0) is first and not speed:
                yield
                children = self._at_work.values()
                if since < math.inf:
                    speed = _mean(first, since) if time.time() - since >= _SECONDS else 0.0
                elif len(children) == len(self.shares):
                    train = all(speeds(child, child.began) for child in children)
                    since = time.time() if train else math.inf
        return speed

    def _first(self) -> Generator[None, None, Child]:
        """Return the child in place 0, once there is one."""
        while 0 not in self._at_work:
            yield
        return self._at_work[0]

    def _change(self, count: int) -> Iterator[None]:
        """Ask all children to stop if there will be another number of shares."""
        if count != len(self.shares):
            self.shares, self._draining = self._divided(count), True
            for child in self._at_work.values():
                child.stop()
            yield


def _age(child: Child) -> float:
    """Return the seconds since a child was started."""
    return time.time() - child.began


def _mean(child: Child, since: float) -> float:
    """Return a child's examples per second since then; 0 if it has trained for too short a time."""
    measured = speeds(child, since)[1:]  # the first dispatch contains more, or began before
    # The harmonic mean: each dispatch has as many examples.
    return harmonic_mean(measured) if len(measured) >= _DISPATCHES else 0.0


def speeds(child: Child, since: float) -> Sequence[float]:
    """Return the examples per second of each dispatch that a child has logged since then."""
    logged = [
        point["examples_per_second"]
        for point in runs.points(child.run)
        if point["split"] == "train" and point["time"] > since
    ]
    # All points of a dispatch have one speed.
    return [speed for speed, _ in groupby(logged) if math.isfinite(speed) and speed > 0]
