"""train.steps_per_dispatch=auto: K, the steps of a dispatch, from a short measurement.

A dispatch costs the host some time, however many steps it has. On a CPU that time is lost, so K is
chosen such that it is about 0.3 % of the time of the steps. A GPU does not wait for the host as
long as the next dispatch arrives in time, so K is so large that an epoch has few dispatches.
Results do not depend on K.
"""

import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trainer.data.dataset import Superbatch
from trainer.distributed import collectives
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.step import TrainState
from trainer.train import feed

OVERHEAD = 0.003  # dispatches may cost this share of the steps' time
LONGEST_SECONDS = 0.5  # of a dispatch: a stop signal waits for its end
SLOW_SECONDS = 0.1  # of a step: nothing is measured
LARGEST_BYTES = 64 << 20  # of the images of a dispatch on one process, which holds three of them
GPU_DISPATCHES = 7  # an epoch: with only one, the next would not be ready when it ends
PROBES = {1: 16, 8: 6}  # K -> how many dispatches to time
MOST_SECONDS = 1.0  # for each of the two probes: nobody looks at stop signals meanwhile


class Costs(NamedTuple):
    """Seconds."""

    dispatch: float  # of each dispatch, on top of its steps
    step: float


def choose(
    train_step: CompiledFunction,
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

    `local_batch` is how many rows of every batch this process loads; `alive` is called after each
    dispatch, for the watchdog.
    """
    copy, done = jax.tree.map(jnp.copy, state), first_step  # a copy, because steps donate it

    def dispatch(k: int) -> None:
        nonlocal copy, done
        batch = Superbatch(
            np.zeros((k, local_batch, pixels), np.uint8),
            np.zeros((k, local_batch), np.uint8),
            np.ones((k, local_batch), np.uint8),
        )
        sent = feed.send(mesh, lambda steps: np.zeros(len(steps), np.float32), batch, done)
        copy, metrics = train_step(copy, feed.inputs(mesh, sent))
        jax.device_get(metrics)  # waits for the device: this is what is measured
        done += k
        alive()

    def seconds() -> float:
        began = time.perf_counter()
        dispatch(1)
        return time.perf_counter() - began

    # Every decision below is made from numbers that all processes share: they have to do the same
    # dispatches, each of which contains an all-reduce.
    dispatch(1)  # compiles it
    slowest = max(collectives.share(seconds))
    if slowest > SLOW_SECONDS:
        return 1  # compared with such a step, a dispatch costs nothing
    size = local_batch * pixels
    if mesh.devices.flat[0].platform == "gpu":
        times = min(PROBES[1], math.ceil(MOST_SECONDS / slowest))
        step = max(collectives.share(lambda: min(seconds() for _ in range(times))))
        return near(-(-steps_per_epoch // GPU_DISPATCHES), step, steps_per_epoch, size)
    costs = measure(dispatch, slowest)
    return int(collectives.share(lambda: for_cpu(costs, steps_per_epoch, size))[0])


def for_cpu(costs: Costs, steps_per_epoch: int, bytes_per_step: int) -> int:
    """Return K for a CPU."""
    wanted = max(1, round(costs.dispatch / (OVERHEAD * costs.step)))
    return near(wanted, costs.step, steps_per_epoch, bytes_per_step)


def near(wanted: int, step_seconds: float, steps_per_epoch: int, bytes_per_step: int) -> int:
    """Return a K near `wanted`, within the limits for memory and for stopping.

    Preferably one that divides an epoch: a shorter last dispatch is compiled separately.
    """
    most = min(LONGEST_SECONDS / step_seconds, LARGEST_BYTES / bytes_per_step, steps_per_epoch)
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
    """Time dispatches of two lengths; `dispatch(K)` does K steps and waits for their end.

    `slowest`: seconds of a dispatch of one step on the slowest process. It limits how many are
    timed, the same number on all processes.
    """
    medians = []
    for k, times in PROBES.items():
        dispatch(k)  # compiles it
        seconds = []
        for _ in range(min(times, math.ceil(MOST_SECONDS / (k * slowest)))):
            began = clock()
            dispatch(k)
            seconds.append(clock() - began)
        medians.append(statistics.median(seconds))
    few, many = PROBES
    short, long = medians
    step = max((long - short) / (many - few), 0.1 * long / many)
    return Costs(max(short - step, 0), step)
