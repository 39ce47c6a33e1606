"""Means of loss and metrics per log window and per epoch, for the tracker and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.checkpoint.store import Best
from trainer.optimizers.schedules import Schedule
from trainer.tracking.tensorboard import Tracker
from trainer.tracking.terminal import Terminal

State = dict[str, Any]  # JSON, kept in a checkpoint: a resumed run logs the same points


class Meter(NamedTuple):
    """Sums over a number of examples, float64 on the host: the loss, each metric, the examples."""

    sums: tuple[float, ...] = ()  # empty: of no example

    def add(self, rows: npt.NDArray[np.float64]) -> Meter:
        """Return the meter with more steps: rows (steps, columns).

        Added one after the other, not pairwise, so that portions of any size give the same bits.
        """
        # A checkpoint of another version may hold other sums.
        start = np.array(self.sums if len(self.sums) == rows.shape[1] else np.zeros(rows.shape[1]))
        return Meter(tuple(np.add.accumulate(np.vstack([start, rows]))[-1].tolist()))

    def means(self, names: Sequence[str]) -> dict[str, float]:
        """Return the mean loss and the mean of each metric; NaN before the first example."""
        if not self.sums or not self.sums[-1]:
            return dict.fromkeys(("loss", *names), math.nan)
        return {
            name: value / self.sums[-1]
            for name, value in zip(("loss", *names), self.sums, strict=False)
        }


class Patience:
    """train.stop_early: how long the best evaluation has been the best.

    All processes see the same evaluations, and a checkpoint keeps the state: a run ends at the same
    step, however often it was stopped.
    """

    def __init__(self, best: Best, most: int | None, min_delta: float, saved: State | None) -> None:
        """Continue from a state.

        Args:
            best: the metric, and which values of it are better.
            most: so many evaluations in a row without a better one are enough; None: any number.
            min_delta: a value that is better by no more than this is no better one.
            saved: what state() returned; with another metric it does not count.
        """
        self._best, self._most, self._min_delta = best, most, min_delta
        if saved is None or saved["best"] != [*best]:
            saved = {"lowest": None, "waited": 0}
        self._lowest: float | None = saved["lowest"]  # by Best.value
        self._waited: int = saved["waited"]  # evaluations since then

    def state(self) -> State:
        """Return what a checkpoint keeps, as JSON."""
        return {"best": [*self._best], "lowest": self._lowest, "waited": self._waited}

    def add(self, results: Mapping[str, float]) -> None:
        """Add the results of the validation split, such as validation_loss."""
        value = self._best.value(results)
        assert value is not None, "only the validation split counts"
        better = self._lowest is None or value < self._lowest - self._min_delta
        if math.isfinite(value) and better:
            self._lowest, self._waited = value, 0
        else:
            self._waited += 1

    @property
    def ended(self) -> bool:
        """Whether it was long enough."""
        return self._most is not None and self._waited >= self._most


class Progress:
    """The means of the current log window and of the current epoch."""

    def __init__(
        self,
        log_every_steps: int,
        metric_names: Sequence[str],
        schedule: Schedule,
        tracker: Tracker | None,
        terminal: Terminal,
        saved: State | None,
        steps_per_epoch: int,
    ) -> None:
        """Continue from what state() returned when a checkpoint was `saved`, or from zero.

        The tracker, None on all processes but one, gets a point at the end of each log window, with
        the learning rate of the schedule. The terminal shows the means of the epoch.
        """
        self._every, self._names = log_every_steps, metric_names
        self._steps_per_epoch = steps_per_epoch
        self._schedule = schedule
        self._tracker = tracker
        self._terminal = terminal
        saved = saved or {"window": [], "epoch": [], "skipped": 0}
        self.skipped: int = saved["skipped"]  # steps whose update was dropped
        self._window, self._epoch = (
            # Without what was added up before train.log_gradient_norm was switched on or off.
            Meter(tuple(saved[part]) if len(saved[part]) == len(metric_names) + 2 else ())
            for part in ("window", "epoch")
        )
        # Of this start: (examples, seconds of training) now, and when the last two points were
        # logged. The speed since then is that of the present: a slow-down shows.
        self._done = self._last = self._before = (0.0, 0.0)

    def state(self) -> State:
        """Return what a checkpoint keeps, as JSON; floats survive it bit for bit."""
        return {"window": self._window.sums, "epoch": self._epoch.sums, "skipped": self.skipped}

    @property
    def epoch(self) -> dict[str, float]:
        """The means of the epoch so far; after its last step, of all of it."""
        return self._epoch.means(self._names)

    def add(self, steps: range, rows: npt.NDArray[np.float64], seconds: float) -> None:
        """Add some steps: rows (len(steps), columns) of the summed loss, metrics, and examples.

        `seconds` of training have passed in this start of the run.
        """
        epoch_start = (steps.stop - 1) // self._steps_per_epoch * self._steps_per_epoch
        if epoch_start >= steps.start:  # a dispatch may cover the ends of several epochs, too
            self._epoch = Meter()
        self._epoch = self._epoch.add(rows[max(0, epoch_start - steps.start) :])
        self._done = (self._done[0] + float(rows[:, -1].sum()), seconds)
        speed, lo = self._speed(self._last), steps.start
        # A dispatch may cover the ends of several log windows: each is logged at its own step.
        for end in range(steps.start // self._every * self._every, steps.stop + 1, self._every):
            if end > steps.start:
                self._window = self._window.add(rows[lo - steps.start : end - steps.start])
                self._log(end, speed)
                self._window, lo = Meter(), end
        self._window = self._window.add(rows[lo - steps.start :])
        self._terminal.update(steps.stop, self.epoch, self._speed(self._before))
        if lo > steps.start:
            self._before, self._last = self._last, self._done

    def _speed(self, since: tuple[float, float]) -> float:
        """Return the examples a second since then."""
        examples, seconds = (now - then for now, then in zip(self._done, since, strict=True))
        return examples / max(seconds, 1e-9)

    def _log(self, step: int, examples_per_second: float) -> None:
        if self._tracker is not None:
            values = {
                **self._window.means(self._names),
                "lr": float(self._schedule(np.array([step - 1]))[0]),
                "examples_per_second": examples_per_second,
            }
            self._tracker.scalars("train", step, values)
