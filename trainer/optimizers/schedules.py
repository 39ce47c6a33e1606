"""Learning rate schedules: pure functions of the step, computed on the host in float64.

The rate of a step is the peak, times the warm-up, times a shape. Each function takes steps (any
shape of integers, counted from 0) and returns numbers of that shape. The rates enter the training
step as values, so a schedule is never compiled in.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float32]
Schedule = Callable[[Steps], Rates]


class Spans(NamedTuple):
    """How many steps the parts of a schedule have; no schedule uses all."""

    total: int  # of the whole training
    warmup: int = 0
    decay: int = 0  # the last of the total
    boundaries: tuple[int, ...] = ()  # the first step of each further piece, in ascending order


def make(
    name: str,
    lr: float,
    spans: Spans,
    final_fraction: float = 0.0,
    factors: Sequence[float] = (),
) -> Schedule:
    """Return a schedule as a function of the steps alone.

    Args:
        name: `constant`; `piecewise`; or a decay, which rises over the warm-up and falls to the
            end: `warmup_linear`, `warmup_cosine` along half a cosine, or `warmup_stable_decay`,
            linearly in the last `decay` steps alone.
        lr: the peak.
        spans: the steps of its parts.
        final_fraction: of the peak, that a decay falls to.
        factors: of `piecewise`: of the peak, from each boundary on.
    """
    start = spans.warmup  # of the decay
    if name == "warmup_stable_decay":
        start = max(spans.total - spans.decay, start)
    pieces = np.array([1.0, *factors])

    def rates(steps: Steps) -> Rates:
        if name == "constant":
            return np.full(steps.shape, lr, np.float32)
        # The warm-up: step 0 already moves, step warmup - 1 is the first at the peak.
        risen = lr * np.minimum((steps + 1) / max(spans.warmup, 1), 1.0)
        if name == "piecewise":
            piece = np.searchsorted(spans.boundaries, steps, side="right")
            return (risen * pieces[piece]).astype(np.float32)
        passed = np.clip((steps - start) / max(spans.total - start, 1), 0.0, 1.0)  # of the decay
        left = 0.5 * (1.0 + np.cos(np.pi * passed)) if name == "warmup_cosine" else 1.0 - passed
        falling = final_fraction + (1.0 - final_fraction) * left
        return (risen * falling).astype(np.float32)

    return rates
