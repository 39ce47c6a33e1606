"""K, the steps of a dispatch, from a short measurement: train.steps_per_dispatch=auto.

A dispatch costs the host some time, however many steps it holds. On a CPU that time is lost, and K
is chosen so that it is about 0.3 % of the time of the steps. A GPU does not wait for the host as
long as the next dispatch is ready in time. Results do not depend on K.
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

from trainer import cluster, feed
from trainer.batch import Superbatch
from trainer.program import Program
from trainer.step import TrainState

LONGEST_SECONDS = 0.5  # of a dispatch: a signal to stop waits for its end
SLOW_SECONDS = 0.1  # of a step: nothing is measured
LARGEST_BYTES = 64 << 20  # of the images of a dispatch on one process; three are in memory
MOST_SECONDS = 1.0  # that each of the two may take: nobody looks for a signal to stop meanwhile


class Probe(NamedTuple):
    """How K is looked for on a platform."""

    share: float  # of the steps' time, that dispatches may cost the host
    ks: tuple[int, int]  # K that are timed
    times: tuple[int, int]  # how often each


CPU = Probe(0.003, (1, 8), (16, 6))
GPU = Probe(0.3, (1, 64), (16, 16))  # a step takes microseconds, the host varies by hundreds


class Costs(NamedTuple):
    """Seconds."""

    dispatch: float  # of each, besides its steps
    step: float


def choose(costs: Costs, share: float, steps_per_epoch: int, bytes_per_step: int) -> int:
    """Return K, such that dispatches cost about `share` of the steps' time.

    Preferably one near by that divides an epoch: a shorter last dispatch is compiled separately.
    """
    wanted = max(1, round(costs.dispatch / (share * costs.step)))
    most = min(LONGEST_SECONDS / costs.step, LARGEST_BYTES / bytes_per_step, steps_per_epoch)
    most = max(1, int(most))
    wanted = min(wanted, most)
    near = range(-(-wanted // 4), min(4 * wanted, most) + 1)
    divisors = [k for k in near if steps_per_epoch % k == 0]
    return min(divisors, key=lambda k: abs(math.log(k / wanted)), default=wanted)


def measure(
    dispatch: Callable[[int], None],
    probe: Probe,
    slowest: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Time dispatches of a few lengths; `dispatch(K)` does one and waits for its end.

    `slowest`: seconds of a dispatch of one step, the same on all processes, for all have to do as
    many.
    """
    found = []
    for k, times in zip(probe.ks, probe.times, strict=True):
        dispatch(k)  # compiles it
        seconds = []
        for _ in range(min(times, math.ceil(MOST_SECONDS / (k * slowest)))):
            began = clock()
            dispatch(k)
            seconds.append(clock() - began)
        found.append(statistics.median(seconds))
    short, long = found
    step = max((long - short) / (probe.ks[1] - probe.ks[0]), 0.1 * long / probe.ks[1])
    return Costs(max(short - step, 0), step)


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
        steps = range(done, done + k)
        fed = feed.start(mesh, _no_learning, feed.send(mesh, batch), steps, False)
        copy, reduced = train_step(copy, fed)
        jax.device_get(reduced)
        done += k
        alive()

    def seconds() -> float:
        began = time.perf_counter()
        dispatch(1)
        return time.perf_counter() - began

    dispatch(1)  # compiles it
    slowest = max(cluster.share(seconds))
    if slowest > SLOW_SECONDS:
        return 1  # starting it costs next to nothing of such a step

    probe = CPU if mesh.devices.flat[0].platform == "cpu" else GPU
    longest = max(2, min(probe.ks[1], LARGEST_BYTES // (local_batch * pixels)))
    probe = probe._replace(ks=(1, longest))
    costs = measure(dispatch, probe, slowest)
    chosen = choose(costs, probe.share, steps_per_epoch, local_batch * pixels)
    return int(cluster.share(lambda: chosen)[0])


def _no_learning(steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.zeros(len(steps), np.float32)
