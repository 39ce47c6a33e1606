"""K, the steps of a dispatch, from a short measurement: train.steps_per_dispatch=auto.

A dispatch costs the host some time, however many steps it holds. On a CPU that time is lost, and K
is chosen so that it is about 0.3 % of the time of the steps. A GPU does not wait for the host as
long as the next dispatch is there in time: K is so large that an epoch has few. Results do not
depend on K.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from trainer.data.dataset import Superbatch
from trainer.distributed import collectives
from trainer.parallel.compiler import Program
from trainer.parallel.step import TrainState
from trainer.train import feed

SHARE = 0.003  # of the steps' time, that dispatches may cost
LONGEST_SECONDS = 0.5  # of a dispatch: a signal to stop waits for its end
SLOW_SECONDS = 0.1  # of a step: nothing is measured
LARGEST_BYTES = 64 << 20  # of the images of a dispatch on one process; the next two lie beside them
GPU_DISPATCHES = 7  # an epoch: with one alone, none would be ready when another ends
PROBES = (1, 8)  # K
TIMES = (16, 6)
MOST_SECONDS = 1.0  # that each of the two may take: nobody looks for a signal to stop meanwhile


class Costs(NamedTuple):
    """Seconds."""

    dispatch: float  # of each, besides its steps
    step: float


def choose(costs: Costs, steps_per_epoch: int, bytes_per_step: int) -> int:
    """Return K for a CPU."""
    wanted = max(1, round(costs.dispatch / (SHARE * costs.step)))
    return near(wanted, costs.step, steps_per_epoch, bytes_per_step)


def near(wanted: int, step: float, steps_per_epoch: int, bytes_per_step: int) -> int:
    """Return K within what is good for memory and for stopping, where a step takes `step` seconds.

    Preferably one near by that divides an epoch: a shorter last dispatch is compiled separately.
    """
    most = min(LONGEST_SECONDS / step, LARGEST_BYTES / bytes_per_step, steps_per_epoch)
    most = max(1, int(most))
    wanted = min(wanted, most)
    around = range(-(-wanted // 4), min(4 * wanted, most) + 1)
    divisors = [k for k in around if steps_per_epoch % k == 0]
    return min(divisors, key=lambda k: abs(math.log(k / wanted)), default=wanted)


def measure(
    dispatch: Callable[[int], None],
    slowest: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Time dispatches of a few lengths; `dispatch(K)` does one and waits for its end.

    `slowest`: seconds of a dispatch of one step, the same on all processes, for all have to do as
    many.
    """
    found = []
    for k, times in zip(PROBES, TIMES, strict=True):
        dispatch(k)  # compiles it
        seconds = []
        for _ in range(min(times, math.ceil(MOST_SECONDS / (k * slowest)))):
            began = clock()
            dispatch(k)
            seconds.append(clock() - began)
        found.append(statistics.median(seconds))
    short, long = found
    step = max((long - short) / (PROBES[1] - PROBES[0]), 0.1 * long / PROBES[1])
    return Costs(max(short - step, 0), step)


def fastest(seconds: Callable[[], float], slowest: float) -> float:
    """Return the least of some timings, of which one took `slowest` on the slowest process."""
    return min(seconds() for _ in range(min(TIMES[0], math.ceil(MOST_SECONDS / slowest))))


def steps_per_dispatch(
    train_step: Program,
    state: TrainState,
    *,
    mesh: Mesh,
    first_step: int,
    steps_per_epoch: int,
    local_batch: int,
    pixels: int,
    alive: Callable[[], object],
) -> int:
    """Measure, and return the same K on all processes; the state stays as it is.

    Args:
        train_step: is compiled for the lengths that are tried.
        state: as training begins, on every device.
        mesh: the devices.
        first_step: optimizer steps done, as the state has them.
        steps_per_epoch: of the whole data set.
        local_batch: rows of every global batch that this process loads.
        pixels: of an image.
        alive: called after each dispatch.
    """
    copy, done = jax.tree.map(jnp.copy, state), first_step

    def dispatch(k: int) -> None:
        nonlocal copy, done
        batch = Superbatch(
            np.zeros((k, local_batch, pixels), np.uint8),
            np.zeros((k, local_batch), np.uint8),
            np.ones((k, local_batch), np.uint8),
        )
        fed = feed.start(mesh, feed.send(mesh, _no_learning, batch, done), False)
        copy, reduced = train_step(copy, fed)
        jax.device_get(reduced)
        done += k
        alive()

    def seconds() -> float:
        began = time.perf_counter()
        dispatch(1)
        return time.perf_counter() - began

    dispatch(1)  # compiles it
    slowest = max(collectives.share(seconds))
    if slowest > SLOW_SECONDS:
        return 1  # starting it costs next to nothing of such a step

    size = local_batch * pixels
    if mesh.devices.flat[0].platform == "gpu":
        step = max(collectives.share(lambda: fastest(seconds, slowest)))
        return near(-(-steps_per_epoch // GPU_DISPATCHES), step, steps_per_epoch, size)
    costs = measure(dispatch, slowest)
    chosen = choose(costs, steps_per_epoch, size)
    return int(collectives.share(lambda: chosen)[0])


def _no_learning(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.zeros(len(steps), np.float32)
