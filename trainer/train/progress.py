"""Running loss and accuracy per log window and per epoch, for the tracker and the terminal."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.functional.schedules import Schedule
from trainer.tracking.tensorboard import Tracker
from trainer.tracking.terminal import Terminal


class Meter(NamedTuple):
    """Sums over a number of examples; float64 on the host."""

    loss_sum: float = 0.0
    correct: float = 0.0
    examples: float = 0.0

    def add(self, rows: npt.NDArray[np.float64]) -> Meter:
        """Return the meter with more steps: rows (steps, 3) of loss, correct and count.

        Added one after the other, not pairwise, so that portions of any size give the same bits.
        """
        return Meter(*np.add.accumulate(np.vstack([np.array(self), rows]))[-1].tolist())

    @property
    def loss(self) -> float:
        """Mean loss; NaN before the first example."""
        return self.loss_sum / self.examples if self.examples else float("nan")

    @property
    def accuracy(self) -> float:
        """Fraction of correct answers; NaN before the first example."""
        return self.correct / self.examples if self.examples else float("nan")


State = dict[str, Any]  # JSON, kept in a checkpoint: a resumed run logs the same points


class Progress:
    """The means of the current log window and of the current epoch."""

    def __init__(
        self,
        log_every_steps: int,
        schedule: Schedule,
        tracker: Tracker | None,
        terminal: Terminal,
        saved: State | None,
    ) -> None:
        """Continue from what state() returned when a checkpoint was `saved`, or from zero.

        The tracker, None on all processes but one, gets a point at the end of each log window, with
        the learning rate of the schedule. The terminal shows the means of the epoch.
        """
        self._every = log_every_steps
        self._schedule = schedule
        self._tracker = tracker
        self._terminal = terminal
        saved = saved or {"window": [], "epoch": [], "skipped": 0}
        self.skipped: int = saved["skipped"]  # steps whose update was dropped
        self._window = Meter(*saved["window"])
        self.epoch = Meter(*saved["epoch"])

    def state(self) -> State:
        """Return what a checkpoint keeps, as JSON; floats survive it bit for bit."""
        return {"window": list(self._window), "epoch": list(self.epoch), "skipped": self.skipped}

    def add(self, steps: range, rows: npt.NDArray[np.float64], examples_per_second: float) -> None:
        """Add some steps: rows (len(steps), 3) of summed loss, correct answers and examples."""
        self.epoch = self.epoch.add(rows)
        lo = steps.start
        # A dispatch may cover the ends of several log windows: each is logged at its own step.
        for end in range(steps.start // self._every * self._every, steps.stop + 1, self._every):
            if end > steps.start:
                self._window = self._window.add(rows[lo - steps.start : end - steps.start])
                self._log(end, examples_per_second)
                self._window, lo = Meter(), end
        self._window = self._window.add(rows[lo - steps.start :])
        self._terminal.update(steps.stop, self.epoch.loss, self.epoch.accuracy, examples_per_second)

    def end_epoch(self) -> None:
        """Reset the means of the epoch."""
        self.epoch = Meter()

    def _log(self, step: int, examples_per_second: float) -> None:
        if self._tracker is not None:
            values = {
                "loss": self._window.loss,
                "accuracy": self._window.accuracy,
                "lr": float(self._schedule(np.array([step - 1]))[0]),
                "examples_per_second": examples_per_second,
            }
            self._tracker.scalars("train", step, values)
