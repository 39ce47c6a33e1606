"""Learning rate schedules: pure functions of the step, computed on the host in float64.

Each takes steps (any shape of integers, counted from 0) and returns learning rates, float32, of
that shape. The rates enter the training step as values, so a schedule is never compiled in.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Steps = npt.NDArray[np.int64]
Rates = npt.NDArray[np.float32]
Schedule = Callable[[Steps], Rates]


def constant(steps: Steps, lr: float) -> Rates:
    """Return lr at every step."""
    return np.full(steps.shape, lr, np.float32)


def _warmup(steps: Steps, warmup_steps: int) -> npt.NDArray[np.float64]:
    """Rise linearly to 1; step 0 already moves, step warmup_steps - 1 is the first at 1."""
    return np.minimum((steps + 1) / max(warmup_steps, 1), 1.0)


def _progress(steps: Steps, warmup_steps: int, total_steps: int) -> npt.NDArray[np.float64]:
    """How much of the decay has passed, from 0 at the end of the warm-up to 1 at total_steps."""
    return np.clip((steps - warmup_steps) / max(total_steps - warmup_steps, 1), 0.0, 1.0)


def warmup_linear(steps: Steps, lr: float, warmup_steps: int, total_steps: int) -> Rates:
    """Rise linearly to lr over warmup_steps, then fall linearly to 0 at total_steps."""
    decay = 1.0 - _progress(steps, warmup_steps, total_steps)
    return (lr * _warmup(steps, warmup_steps) * decay).astype(np.float32)


def warmup_cosine(steps: Steps, lr: float, warmup_steps: int, total_steps: int) -> Rates:
    """Rise linearly to lr over warmup_steps, then fall along half a cosine to 0 at total_steps."""
    decay = 0.5 * (1.0 + np.cos(np.pi * _progress(steps, warmup_steps, total_steps)))
    return (lr * _warmup(steps, warmup_steps) * decay).astype(np.float32)


def make(name: str, lr: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Return the schedule of that name as a function of the steps alone."""
    if name == "constant":
        return lambda steps: constant(steps, lr)
    shape = {"warmup_linear": warmup_linear, "warmup_cosine": warmup_cosine}[name]
    return lambda steps: shape(steps, lr, warmup_steps, total_steps)
