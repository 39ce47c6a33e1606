"""As many trials train at once as are faster than one by one."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.sweep import shares, width

# Measuring how many trials to train at once.


class Machine:
    """Trials on four cores, 3 s after whose start the training begins, and of which none fails.

    `speeds`: trials at work -> examples per second of each. A trial ends after so many examples.
    """

    def __init__(self, monkeypatch, trials, speeds, examples):
        self.now, self.speeds, self.waiting, self.notes = 0.0, speeds, [examples] * trials, []
        monkeypatch.setattr(width.time, "time", lambda: self.now)
        monkeypatch.setattr(width.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(width, "speeds", self.logged)
        monkeypatch.setattr(width, "finished", lambda run: True)
        monkeypatch.setattr(width.processes, "resident", lambda process: 1)
        monkeypatch.setattr(shares, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
        self.width = width.Width("auto", 1, {}, self.notes.append)
        self.at_work = {}

    def logged(self, child, since):
        """Stand for width.speeds: two dispatches a second."""
        dispatches = int(2 * (self.now - max(since, child.began + 3)))
        return [self.speed] * dispatches

    @property
    def speed(self):
        return self.speeds[max(count for count in self.speeds if count <= len(self.at_work))]

    def run(self, seconds):
        """Let time pass; return how many were at work last."""
        waiting, last, end = self.waiting, 0, self.now + seconds
        while self.now < end and (waiting or self.at_work):
            while waiting and (place := self.width.free(self.at_work)) is not None:
                child = SimpleNamespace(began=self.now, process=None, run=Path("none"))
                child.stopped, child.left = False, waiting.pop(0)
                child.stop = partial(setattr, child, "stopped", True)
                self.at_work[place] = child
            self.now, last, speed = self.now + 0.1, len(self.at_work), self.speed
            for place, child in [*self.at_work.items()]:
                child.left -= 0.1 * speed * (self.now > child.began + 3)
                if child.stopped or child.left <= 0:
                    del self.at_work[place]
                    waiting[:0] = [child.left] * (child.left > 0)
            self.width.look(self.at_work, len(waiting))
        return last


@pytest.mark.parametrize(
    ("trials", "speeds", "count"),
    [
        (8, {1: 100, 2: 60, 4: 30}, 4),
        (8, {1: 100, 2: 60, 4: 24}, 2),
        (8, {1: 100, 2: 45, 4: 20}, 1),
        (9, {1: 100, 2: 51, 4: 26}, 1),  # in three rounds, the last with one trial on one core
        (3, {1: 100, 3: 80}, 3),
        (1, {1: 100}, 1),
    ],
)
def test_as_many_train_at_once_as_are_faster_than_one_by_one(trials, speeds, count, monkeypatch):
    machine = Machine(monkeypatch, trials, speeds, examples=1e9)
    assert machine.run(19) == 1
    assert machine.run(50) == count
    assert len(machine.width.shares) == count
    assert (machine.width.shares == [shares.WHOLE]) == (count == 1)
    assert (f"{count} at once from now on" in "".join(machine.notes)) == (trials > 1)


@pytest.mark.parametrize(
    ("speeds", "room", "count"),
    [
        ({1: 100, 2: 45, 4: 20}, 9, 4),  # start-up is a part of what is compared
        ({1: 100, 4: 10}, 9, 1),
        ({1: 100, 2: 60}, 2, 2),  # of what fits into the memory
    ],
)
def test_short_trials_are_compared_as_a_whole(speeds, room, count, monkeypatch):
    machine = Machine(monkeypatch, 20, speeds, examples=200)  # 5 s alone
    monkeypatch.setattr(width.processes, "available_memory", lambda: room)
    machine.run(50)
    assert len(machine.width.shares) == count
    assert machine.notes[0].endswith("s for one trial alone")


def test_a_trial_that_fails_is_not_compared(monkeypatch):
    machine = Machine(monkeypatch, 9, {1: 100}, examples=200)
    monkeypatch.setattr(width, "finished", lambda run: False)
    machine.run(30)
    assert len(machine.width.shares) == 1
    assert not machine.notes
