"""A plain Flax + Optax loop: one jitted step a batch, shuffled on the host, losses fetched last."""

from typing import Any

import jax
import numpy as np

from benchmarks.workers import LeftOut
from benchmarks.workers.rival import JAX_PRECISION, Job

try:
    import optax
    from flax.training.train_state import TrainState
except ModuleNotFoundError as error:
    MISSING: str | None = error.name
else:
    MISSING = None


def measure(**arguments: Any) -> dict[str, Any]:
    """Train, and return the seconds of a step; the arguments are those of Job."""
    if MISSING:
        raise LeftOut(
            f"{MISSING} is not installed: install the extra `bench`: pip install '.[bench]' in "
            "the checkout; or call scripts/bench without BENCH_PYTHON"
        )
    job = Job(**arguments)
    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[job.precision])
    examples, options = job.examples(), dict(job.optim)
    net, key = job.rivals()["flax"](job.options), jax.random.key(2)

    clip_norm = options.pop("clip_norm", None)
    make = optax.sgd if "momentum" in options else optax.adamw
    optimizer = make(options.pop("lr"), **options)
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    weights = net.init(keys, {field: array[:1] for field, array in examples.items()})
    state = TrainState.create(apply_fn=net.apply, params=weights, tx=optimizer)

    @jax.jit
    def trained(state: Any, batch: Any) -> Any:
        drawn = {"dropout": jax.random.fold_in(key, state.step)}
        loss_of = jax.value_and_grad(state.apply_fn)
        loss, gradients = loss_of(state.params, batch, rngs=drawn)
        return state.apply_gradients(grads=gradients), loss

    losses: list[jax.Array] = []

    def step(index: Any) -> None:
        nonlocal state
        state, loss = trained(state, {field: array[index] for field, array in examples.items()})
        losses.append(loss)

    def fetch(_: None) -> float:
        values = jax.device_get(losses)
        losses.clear()
        return float(np.mean(values))

    count = len(next(iter(examples.values())))
    order = np.random.default_rng(0).permutation(count)
    indices = (order[part] for part in job.slices(count))
    return {"seconds_per_step": job.seconds_per_step(step, indices, fetch)}
