"""The loop of the notebook that the trainer started from: one jitted step a batch, from the host.

Data stays on the host as uint8; a layer takes one sample and is mapped over the batch; the loss is
fetched after every step. Batches come in file order.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workers.rival import JAX_PRECISION, Job


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


def measure(**arguments: Any) -> dict[str, Any]:
    """Train, and return the seconds of a step; the arguments are those of Job."""
    job = Job(**arguments)
    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[job.precision])
    examples, lr, momentum = job.examples(), job.optim["lr"], job.optim["momentum"]
    images, labels = examples["image"].reshape(len(examples["label"]), -1), examples["label"]
    mean, std = job.options["mean"], job.options["std"]
    weights = init(jax.random.key(24), job.options["sizes"])
    velocities = jax.tree.map(jnp.zeros_like, weights)

    def loss_of(weights: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        x = (x.astype(jnp.float32) - mean) / std
        logits = jax.vmap(fwd, in_axes=(0, None))(x, weights)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * jax.nn.one_hot(y, 10), axis=-1))

    @jax.jit
    def trained(weights: Any, velocities: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        velocities = jax.tree.map(lambda v, g: momentum * v + lr * g, velocities, gradients)
        weights = jax.tree.map(
            lambda w, v, g: w - (momentum * v + lr * g), weights, velocities, gradients
        )
        return weights, velocities, loss

    def step(part: slice) -> float:
        nonlocal weights, velocities
        weights, velocities, loss = trained(weights, velocities, images[part], labels[part])
        return float(loss)

    return {"seconds_per_step": job.seconds_per_step(step, job.slices(len(labels)), float)}
