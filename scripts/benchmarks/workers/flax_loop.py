"""A plain Flax + Optax loop: one jitted step a batch, shuffled on the host, losses fetched last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workers import LeftOut
from benchmarks.workers.rival import JAX_PRECISION, LR, MOMENTUM, Job

try:
    import optax
    from flax import linen as nn
    from flax.training.train_state import TrainState
except ModuleNotFoundError as error:
    MISSING: str | None = error.name
else:
    MISSING = None


def measure(**arguments: Any) -> dict[str, Any]:
    """Train the MLP, and return the seconds of a step; the arguments are those of Job."""
    _check()
    job = Job(**arguments)

    class Net(nn.Module):
        """The same network."""

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for size in job.sizes[1:-1]:
                x = nn.relu(nn.Dense(size)(x))
            return nn.Dense(job.sizes[-1])(x)

    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[job.precision])
    images, labels = job.load()
    net = Net()

    def loss_of(params: Any, batch: Mapping[str, jax.Array], _: jax.Array) -> jax.Array:
        x = (batch["image"].astype(jnp.float32) - job.mean) / job.std
        logits = net.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    params = net.init(jax.random.key(0), jnp.ones((1, job.sizes[0])))["params"]
    optimizer = optax.sgd(LR, momentum=MOMENTUM, nesterov=True)
    return _train(
        job, {"image": images, "label": labels.astype(np.int32)}, params, loss_of, optimizer
    )


def example(**arguments: Any) -> dict[str, Any]:
    """Train the model of an example by AdamW; as `measure`."""
    _check()
    job = Job(**arguments)
    examples, options = job.examples(), dict(job.optim)
    net = job.rivals()["flax"](job.options)
    first = {field: array[:1] for field, array in examples.items()}

    def loss_of(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        return net.apply(params, batch, rngs={"dropout": key})

    lr, clip_norm = options.pop("lr"), options.pop("clip_norm")
    optimizer = optax.adamw(lr, **options)
    if clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return _train(job, examples, net.init(keys, first), loss_of, optimizer)


def _check() -> None:
    if MISSING:
        raise LeftOut(
            f"{MISSING} is not installed: install the extra `bench`: pip install '.[bench]' in "
            "the checkout; or call scripts/bench without BENCH_PYTHON"
        )


def _train(
    job: Job, examples: Mapping[str, Any], params: Any, loss_of: Any, optimizer: Any
) -> dict[str, Any]:
    """Train; `loss_of(params, batch, key)` is the mean loss of a batch."""
    state = TrainState.create(apply_fn=loss_of, params=params, tx=optimizer)
    key = jax.random.key(2)

    @jax.jit
    def trained(state: Any, batch: Any) -> Any:
        of_step = jax.random.fold_in(key, state.step)
        loss, gradients = jax.value_and_grad(state.apply_fn)(state.params, batch, of_step)
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
