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

from trainer.data.dataset import Examples, Needs, Superbatch, bytes_of_one
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
    *,
    mesh: Mesh,
    first_step: int,
    plan: Plan,
    local_batch: int,
    examples: Examples,
    needs: Needs,
    alive: Callable[[], object],
) -> int:
    """Measure, and return the same K on all processes; the state stays as it is.

    Args:
        train_step: the program.
        state: of the run.
        mesh: the devices.
        first_step: the number of steps done.
        plan: the steps of an epoch and of a span, which K never exceeds.
        local_batch: rows of every batch that this process loads.
        examples: of the training split, for their shapes and dtypes.
        needs: as the stream has them.
        alive: called after each dispatch, for the watchdog.
    """
    copy, done = jax.tree.map(jnp.copy, state), first_step  # a copy, because steps donate it
    rows = (1, local_batch)

    def seconds() -> float:
        nonlocal copy, done
        zeros = {name: np.zeros((*rows, *x.shape[1:]), x.dtype) for name, x in examples.items()}
        batch = Superbatch(
            zeros,
            np.ones(rows, np.uint8),
            np.zeros(rows, np.int32) if needs.indices else None,
            zeros if needs.other else None,
        )
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
    dispatches = GPU_DISPATCHES if mesh.devices.flat[0].platform == "gpu" else 1
    return near(step, plan, local_batch * bytes_of_one(examples), dispatches)


def near(step_seconds: float, plan: Plan, bytes_per_step: int, dispatches: int = 1) -> int:
    """Return the best K: about as long, and as large, as a dispatch may be.

    Preferably one that divides an epoch, or the epochs of a span: a shorter last dispatch is
    compiled separately. A long epoch has at least as many `dispatches`.
    """
    most = max(-(-plan.steps_per_epoch // dispatches), SHORT_SECONDS / step_seconds)
    limits = (DISPATCH_SECONDS / step_seconds, LARGEST_BYTES / max(1, bytes_per_step))
    most = max(1, int(min(most, plan.steps_per_span, *limits)))
    whole = plan.steps_per_epoch if most <= plan.steps_per_epoch else plan.steps_per_span
    divisors = [k for k in range(-(-most // 4), most + 1) if whole % k == 0]
    return max(divisors, default=most)
