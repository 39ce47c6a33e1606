"""The loop of the notebook that the trainer started from: one jitted step a batch, from the host.

Data stays on the host as uint8; a layer takes one sample and is mapped over the batch; the loss is
fetched after every step. Batches come in file order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import answer
from benchmarks.precisions import JAX

LR, MOMENTUM = 0.05, 0.9


def init(key: jax.Array, sizes: list[int]) -> list[tuple[jax.Array, jax.Array]]:
    """Draw the weights: a kernel and a bias a layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (a, b)) * np.sqrt(2 / a).astype(np.float32), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def fwd(x: jax.Array, weights: Any) -> jax.Array:
    """Return the logits of one image."""
    for kernel, bias in weights[:-1]:
        x = jax.nn.relu(jax.lax.dot(x, kernel) + bias)
    kernel, bias = weights[-1]
    return jax.lax.dot(x, kernel) + bias


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
    jax.config.update("jax_default_matmul_precision", JAX[precision])
    images = np.load(Path(arrays) / "train_images.npy")
    labels = np.load(Path(arrays) / "train_labels.npy")
    weights = init(jax.random.key(24), sizes)
    velocities = jax.tree.map(jnp.zeros_like, weights)

    def loss_of(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        logits = jax.vmap(fwd, in_axes=(0, None))((x.astype(jnp.float32) - mean) / std, weights)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(y, 10), axis=-1))

    @jax.jit
    def step(weights: Any, velocities: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        velocities = jax.tree.map(lambda v, g: MOMENTUM * v + LR * g, velocities, gradients)
        weights = jax.tree.map(
            lambda w, v, g: w - (MOMENTUM * v + LR * g), weights, velocities, gradients
        )
        return weights, velocities, loss

    parts = [slice(lo, lo + batch_size) for lo in range(0, len(labels), batch_size)]
    for number in range(-warmup_steps, steps):
        if number == 0:
            began = time.perf_counter()
        part = parts[number % len(parts)]  # from the end on: the short last batch is compiled too
        weights, velocities, loss = step(weights, velocities, images[part], labels[part])
        if not np.isfinite(float(loss)):
            raise answer.LeftOut(f"the loss is {loss}")
    return {"seconds_per_step": (time.perf_counter() - began) / steps}


if __name__ == "__main__":
    answer.serve(measure)
