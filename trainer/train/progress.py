"""Means of loss and metrics per log window and per epoch, for the tracker and the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.checkpoint.store import Best
from trainer.optimizers.schedules import Schedule
from trainer.tracking.tensorboard import Tracker
from trainer.tracking.terminal import Terminal

State = dict[str, Any]  # JSON, kept in a checkpoint: a resumed run logs the same points
Sums = npt.NDArray[np.float64]  # (columns,): the loss, each metric, the number of examples


class Patience:
    """train.stop_early: how long the best evaluation has been the best.

    All processes see the same evaluations, and a checkpoint keeps the state: a run ends at the same
    step, however often it was stopped.
    """

    def __init__(self, best: Best, most: int | None, min_delta: float, saved: State | None) -> None:
        """Continue from a state.

        Args:
            best: the metric, and which values of it are better.
            most: this many evaluations in a row without a better one end the run; None: none do.
            min_delta: a value counts as better only if it is better by more than this.
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
        """Whether there were enough evaluations in a row without a better one."""
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
        self._every, self._names = log_every_steps, ("loss", *metric_names)
        self._steps_per_epoch = steps_per_epoch
        self._schedule = schedule
        self._tracker = tracker
        self._terminal = terminal
        saved = saved or {"window": [], "epoch": [], "skipped": 0}
        self.skipped: int = saved["skipped"]  # steps whose update was dropped
        self._zero: Sums = np.zeros(len(self._names) + 1)
        self._window, self._epoch = (
            # Without what was added up before train.log_gradient_norm was switched on or off.
            np.array(saved[part], float) if len(saved[part]) == len(self._zero) else self._zero
            for part in ("window", "epoch")
        )
        # Of this start: (examples, seconds of training) now, and when the last two points were
        # logged. The speed since then is that of the present: a slow-down shows.
        self._done = self._last = self._before = (0.0, 0.0)

    def state(self) -> State:
        """Return what a checkpoint keeps, as JSON; floats survive it bit for bit."""
        window, epoch = self._window.tolist(), self._epoch.tolist()
        return {"window": window, "epoch": epoch, "skipped": self.skipped}

    @property
    def epoch(self) -> dict[str, float]:
        """The means of the epoch so far; after its last step, of all of it."""
        return self._means(self._epoch)

    def add(self, steps: range, rows: npt.NDArray[np.float64], seconds: float) -> None:
        """Add some steps: rows (len(steps), columns) of the summed loss, metrics, and examples.

        `seconds` of training have passed in this start of the run.
        """
        epoch_start = (steps.stop - 1) // self._steps_per_epoch * self._steps_per_epoch
        if epoch_start >= steps.start:  # a dispatch may cover the ends of several epochs, too
            self._epoch = self._zero
        self._epoch = _added(self._epoch, rows[max(0, epoch_start - steps.start) :])
        self._done = (self._done[0] + float(rows[:, -1].sum()), seconds)
        speed, lo = self._speed(self._last), steps.start
        # A dispatch may cover the ends of several log windows: each is logged at its own step.
        for end in range(steps.start // self._every * self._every, steps.stop + 1, self._every):
            if end > steps.start:
                self._window = _added(self._window, rows[lo - steps.start : end - steps.start])
                self._log(end, speed)
                self._window, lo = self._zero, end
        self._window = _added(self._window, rows[lo - steps.start :])
        self._terminal.update(steps.stop, self.epoch, self._speed(self._before))
        if lo > steps.start:
            self._before, self._last = self._last, self._done

    def _means(self, sums: Sums) -> dict[str, float]:
        """Return the mean loss and the mean of each metric; NaN before the first example."""
        examples = sums[-1] or math.nan
        return {name: float(x / examples) for name, x in zip(self._names, sums, strict=False)}

    def _speed(self, since: tuple[float, float]) -> float:
        """Return the examples a second since then."""
        examples, seconds = (now - then for now, then in zip(self._done, since, strict=True))
        return examples / max(seconds, 1e-9)

    def _log(self, step: int, examples_per_second: float) -> None:
        if self._tracker is not None:
            values = {
                **self._means(self._window),
                "lr": float(self._schedule(np.array([step - 1]))[0]),
                "examples_per_second": examples_per_second,
            }
            self._tracker.scalars("train", step, values)


def _added(sums: Sums, rows: npt.NDArray[np.float64]) -> Sums:
    """Add the rows (steps, columns) of some steps to sums.

    One after the other, not pairwise, so that portions of any size give the same bits.
    """
    total: Sums = np.add.accumulate(np.vstack([sums, rows]))[-1]
    return total
