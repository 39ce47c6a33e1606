"""A plain Flax + Optax loop: one jitted step a batch, shuffled on the host, losses fetched last."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workers import LeftOut
from benchmarks.workers.rival import JAX_PRECISION, LR, MOMENTUM, Job


def measure(**arguments: Any) -> dict[str, Any]:
    """Train, and return the seconds of a step; the arguments are those of Job."""
    try:
        import optax
        from flax import linen as nn
        from flax.training.train_state import TrainState
    except ModuleNotFoundError as error:
        raise LeftOut(
            f"{error.name} is not installed: install the extra `bench`: pip install '.[bench]' in "
            "the checkout; or call scripts/bench without BENCH_PYTHON"
        ) from None
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
    state = TrainState.create(
        apply_fn=net.apply,
        params=net.init(jax.random.key(0), jnp.ones((1, job.sizes[0])))["params"],
        tx=optax.sgd(LR, momentum=MOMENTUM, nesterov=True),
    )

    @jax.jit
    def trained(state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_of(params: Any) -> jax.Array:
            logits = state.apply_fn(
                {"params": params}, (x.astype(jnp.float32) - job.mean) / job.std
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=gradients), loss

    losses: list[jax.Array] = []

    def step(index: Any) -> None:
        nonlocal state
        state, loss = trained(state, images[index], labels[index].astype(np.int32))
        losses.append(loss)

    def fetch(_: None) -> float:
        values = jax.device_get(losses)
        losses.clear()
        return float(np.mean(values))

    order = np.random.default_rng(0).permutation(len(labels))
    indices = (order[part] for part in job.slices(len(labels)))
    return {"seconds_per_step": job.seconds_per_step(step, indices, fetch)}
