"""What the machine can do: matrix products and memory bandwidth, through jax."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.workers.rival import JAX_PRECISION

SIDE = 2048  # of the big square matrices
COPIES = 16  # different left operands, so that nothing can be computed once for all
MIN_SECONDS = 0.15  # of timing a thing


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the median duration of a call, compiled before."""
    jax.block_until_ready(call())
    times: list[float] = []
    while sum(times) < MIN_SECONDS or len(times) < 5:
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def products(batch_size: int, sizes: list[int]) -> list[tuple[str, dict[str, int]]]:
    """Return the matrix products of a step: subscripts for einsum, and the size of each dim.

    The dims are b (batch), i (inputs of a layer), o (outputs). The last kernel is transposed, as
    the step keeps it.
    """
    of_step = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), 1):
        size = {"b": batch_size, "i": inputs, "o": outputs}
        last = number == len(sizes) - 1
        kernel = "oi" if last else "io"
        of_step.append((f"bi,{kernel}->bo", size))  # forward
        of_step.append(("bo,bi->oi" if last else "bi,bo->io", size))  # gradient of the kernel
        if number > 1:  # the images need no gradient
            of_step.append((f"bo,{kernel}->bi", size))
    return of_step


def product_seconds(subscripts: str, size: dict[str, int]) -> float:
    """Time one product, among many in one program."""
    left, right = ([size[dim] for dim in dims] for dims in subscripts.split("->")[0].split(","))
    lefts = jax.random.normal(jax.random.key(0), (COPIES, *left))
    other = jax.random.normal(jax.random.key(1), right)

    @jax.jit
    def multiply_all(lefts: jax.Array, other: jax.Array) -> jax.Array:
        first = jnp.zeros_like(jnp.einsum(subscripts, lefts[0], other))
        body = lambda _, x: (jnp.einsum(subscripts, x, other), None)  # noqa: E731
        return lax.scan(body, first, lefts)[0]

    return seconds_of(lambda: multiply_all(lefts, other)) / COPIES


def measure(batch_size: int, sizes: list[int], precision: str) -> dict[str, Any]:
    """Return rates in operations and bytes a second, and the seconds of the step's products."""
    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[precision])
    big = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    square = jax.jit(lambda a: a @ a)
    of_step = products(batch_size, sizes)
    seconds = sum(product_seconds(*product) for product in of_step)
    operations = sum(2 * size["b"] * size["i"] * size["o"] for _, size in of_step)
    long, other = jnp.zeros(64 << 20, jnp.float32), jnp.ones(64 << 20, jnp.float32)
    triad = jax.jit(lambda x, y: x + 0.5 * y)
    return {
        "matrix_flops": 2 * SIDE**3 / seconds_of(lambda: square(big)),
        "bytes_per_second": 3 * long.nbytes / seconds_of(lambda: triad(long, other)),
        "products_seconds": seconds,
        "products_flops": operations / seconds,
    }
