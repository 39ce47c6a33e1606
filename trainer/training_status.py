"""How far a training is, in the words of a progress line."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass
class Training:
    """A training, as it was last heard of."""

    total_steps: int
    step: int
    steps_per_epoch: int
    loss: float = math.nan
    accuracy: float = math.nan
    examples_per_second: float = math.nan
    watched_since: tuple[float, int] | None = None  # monotonic seconds and step of 1st update

    @property
    def epochs(self) -> int:
        """Epochs in all."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def epoch(self) -> str:
        """Which of them it is at, in words."""
        return f"epoch {max(-(-self.step // self.steps_per_epoch), 1)}/{self.epochs}"

    def status(self, separator: str) -> str:
        """Return loss, accuracy, speed and the time left."""
        if self.watched_since is None:
            return "compiling"
        # Not from the start on: the time before the first update is mostly compilation.
        began, first_step = self.watched_since
        done, left = self.step - first_step, self.total_steps - self.step
        duration = _duration((time.monotonic() - began) / done * left) if done > 0 else "-:--"
        return separator.join(
            (
                f"loss {self.loss:.4f}",
                f"acc {self.accuracy:.1%}",
                f"{_speed(self.examples_per_second)} examples/s",
                f"{duration} left",
            )
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _speed(number: float) -> str:
    """Return three digits or so: 950, 51.2k, 9.9M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
