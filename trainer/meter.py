"""Running means over examples; the bits do not depend on how steps are cut into dispatches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


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
