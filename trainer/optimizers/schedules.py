"""Learning rate schedules: pure functions of the step, computed on the host in float64.

The rate of a step is the peak, times the warm-up, times a shape. Each function takes steps (any
shape of integers, counted from 0) and returns numbers of that shape. The rates enter the training
step as values, so a schedule is never compiled in.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]  # of the peak
Schedule = Callable[[Steps], Rates]


class Spans(NamedTuple):
    """How many steps the parts of a schedule have; no schedule uses all."""

    total: int  # of the whole training
    warmup: int = 0
    decay: int = 0  # the last of the total
    boundaries: tuple[int, ...] = ()  # the first step of each further piece, in ascending order


def _warmup(steps: Steps, spans: Spans) -> Shares:
    """Rise linearly to 1; step 0 already moves, step warmup - 1 is the first at 1."""
    return np.minimum((steps + 1) / max(spans.warmup, 1), 1.0)


def _passed(steps: Steps, start: int, spans: Spans) -> Shares:
    """How much of the decay has passed, from 0 at its start to 1 at the end of the training."""
    return np.clip((steps - start) / max(spans.total - start, 1), 0.0, 1.0)


def _linear(steps: Steps, spans: Spans) -> Shares:
    return 1.0 - _passed(steps, spans.warmup, spans)


def _cosine(steps: Steps, spans: Spans) -> Shares:
    return 0.5 * (1.0 + np.cos(np.pi * _passed(steps, spans.warmup, spans)))


def _stable_decay(steps: Steps, spans: Spans) -> Shares:
    return 1.0 - _passed(steps, max(spans.total - spans.decay, spans.warmup), spans)


DECAYS = {
    "warmup_linear": _linear,
    "warmup_cosine": _cosine,
    "warmup_stable_decay": _stable_decay,
}


def make(
    name: str,
    lr: float,
    spans: Spans,
    final_fraction: float = 0.0,
    factors: Sequence[float] = (),
) -> Schedule:
    """Return a schedule as a function of the steps alone.

    Args:
        name: `constant`; `piecewise`; or a key of DECAYS, which rises over the warm-up and falls to
            the end: linearly, along half a cosine, or linearly in the last `decay` steps alone.
        lr: the peak.
        spans: the steps of its parts.
        final_fraction: of the peak, that a decay falls to.
        factors: of `piecewise`: what the peak is multiplied with from each boundary on.
    """
    if name == "constant":
        return lambda steps: np.full(steps.shape, lr, np.float32)
    if name == "piecewise":
        pieces, shape = np.array([1.0, *factors]), partial(np.searchsorted, spans.boundaries)
        return lambda steps: (
            lr * _warmup(steps, spans) * pieces[shape(steps, side="right")]
        ).astype(np.float32)
    decay = DECAYS[name]

    def rates(steps: Steps) -> Rates:
        falling = final_fraction + (1.0 - final_fraction) * decay(steps, spans)
        return (lr * _warmup(steps, spans) * falling).astype(np.float32)

    return rates
