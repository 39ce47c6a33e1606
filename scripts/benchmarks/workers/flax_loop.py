"""A plain Flax + Optax loop: one jitted step a batch, shuffled on the host, losses fetched last."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import answer
from benchmarks.precisions import JAX


def measure(
    arrays: str,
    sizes: list[int],
    batch_size: int,
    warmup_steps: int,
    steps: int,
    mean: float,
    std: float,
    precision: str,
) -> dict[str, Any]:
    """Train, and return the seconds of a step; the arguments are those of torch_loop."""
    try:
        import optax
        from flax import linen as nn
        from flax.training.train_state import TrainState
    except ModuleNotFoundError as error:
        raise answer.LeftOut(
            f"{error.name} is not installed: install the extra `bench`: pip install '.[bench]' in "
            "the checkout; or call scripts/bench without BENCH_PYTHON"
        ) from None

    class Net(nn.Module):
        """The same network."""

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for size in sizes[1:-1]:
                x = nn.relu(nn.Dense(size)(x))
            return nn.Dense(sizes[-1])(x)

    jax.config.update("jax_default_matmul_precision", JAX[precision])
    images = np.load(Path(arrays) / "train_images.npy")
    labels = np.load(Path(arrays) / "train_labels.npy")
    net = Net()
    state = TrainState.create(
        apply_fn=net.apply,
        params=net.init(jax.random.key(0), jnp.ones((1, sizes[0])))["params"],
        tx=optax.sgd(0.05, momentum=0.9, nesterov=True),
    )

    @jax.jit
    def step(state: Any, x: jax.Array, y: jax.Array) -> Any:
        def loss_of(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, (x.astype(jnp.float32) - mean) / std)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        return state.apply_gradients(grads=gradients), loss

    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    parts = [order[lo : lo + batch_size] for lo in range(0, len(labels), batch_size)]
    losses = []
    for number in range(-warmup_steps, steps):
        if number == 0:
            jax.block_until_ready(losses)
            began = time.perf_counter()
        part = parts[number % len(parts)]  # from the end on: the short last batch is compiled too
        state, loss = step(state, images[part], labels[part].astype(np.int32))
        losses.append(loss)
    mean_loss = np.mean(jax.device_get(losses))
    seconds = time.perf_counter() - began
    if not np.isfinite(mean_loss):
        raise answer.LeftOut(f"the loss is {mean_loss}")
    return {"seconds_per_step": seconds / steps}


if __name__ == "__main__":
    answer.serve(measure)
