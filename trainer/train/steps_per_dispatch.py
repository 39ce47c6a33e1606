"""train.steps_per_dispatch=auto: K, the steps of a dispatch, from the time that one step takes.

A dispatch costs the host some time, however many steps it has, so K is large. But a stop signal
waits for the end of a dispatch, and its batches have to fit into memory. No result depends on K.
"""

import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trainer.data.dataset import Superbatch
from trainer.data.stream import Plan
from trainer.distributed import collectives
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.step import TrainState
from trainer.train import feed

DISPATCH_SECONDS = 0.5  # a stop signal waits for its end; its own cost, 0.3 to 1 ms, is nothing
LARGEST_BYTES = 64 << 20  # of the examples of a dispatch on one process, which holds three of them
GPU_DISPATCHES = 7  # an epoch: with only one, the next would not be ready when it ends
SHORT_SECONDS = 0.05  # epochs shorter than this share a dispatch
TIMES = 8  # dispatches to time
MOST_SECONDS = 1.0  # for all of them: nobody looks at stop signals meanwhile


def choose(
    train_step: CompiledFunction,
    state: TrainState,
    batch: Superbatch,
    *,
    mesh: Mesh,
    first_step: int,
    plan: Plan,
    alive: Callable[[], object],
) -> int:
    """Measure, and return the same K on all processes; the state stays as it is.

    Args:
        train_step: the program.
        state: of the run.
        batch: this process's rows of one batch, which every measured step takes.
        mesh: the devices.
        first_step: the number of steps done.
        plan: the steps of an epoch and of a span, which K never exceeds.
        alive: called after each dispatch, for the watchdog.
    """
    copy, done = jax.tree.map(jnp.copy, state), first_step  # a copy, because steps donate it

    def seconds() -> float:
        nonlocal copy, done
        began = time.perf_counter()
        sent = feed.send(mesh, lambda steps: np.zeros(len(steps), np.float32), batch, done)
        copy, metrics = train_step(copy, feed.inputs(mesh, sent))
        jax.device_get(metrics)  # waits for the device: this is what is measured
        done += 1
        alive()
        return time.perf_counter() - began

    # Every decision is made from numbers that all processes share: they have to do the same
    # dispatches, each of which contains an all-reduce.
    seconds()  # compiles it
    slowest = max(collectives.share(seconds))
    times = min(TIMES, math.ceil(MOST_SECONDS / slowest))
    step = max(collectives.share(lambda: min(seconds() for _ in range(times))))
    size = sum(array.nbytes for array in jax.tree.leaves(batch.examples))
    return best(step, plan, size, gpu=mesh.devices.flat[0].platform == "gpu")


def best(step_seconds: float, plan: Plan, bytes_per_step: int, *, gpu: bool = False) -> int:
    """Return the best K: a dispatch as long, and as large, as it may be.

    Preferably one that divides an epoch, or the epochs of a span: a shorter last dispatch is
    compiled separately. On a GPU, a long epoch has at least GPU_DISPATCHES.
    """
    dispatches = GPU_DISPATCHES if gpu else 1
    most = max(-(-plan.steps_per_epoch // dispatches), SHORT_SECONDS / step_seconds)
    limits = (DISPATCH_SECONDS / step_seconds, LARGEST_BYTES / max(1, bytes_per_step))
    most = max(1, int(min(most, plan.steps_per_span, *limits)))
    whole = plan.steps_per_epoch if most <= plan.steps_per_epoch else plan.steps_per_span
    divisors = [k for k in range(-(-most // 4), most + 1) if whole % k == 0]
    return max(divisors, default=most)
