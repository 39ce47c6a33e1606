"""What the machine can do: matrix products and memory bandwidth, through jax."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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


class Product(NamedTuple):
    """A matrix product of the step: shapes, and the dim of each side that is summed over."""

    left: tuple[int, int]
    right: tuple[int, int]
    dims: tuple[int, int]

    @property
    def flops(self) -> int:
        """Operations."""
        rows, columns = self.left[1 - self.dims[0]], self.right[1 - self.dims[1]]
        return 2 * rows * columns * self.left[self.dims[0]]

    def seconds(self) -> float:
        """Time one product, among many in one program."""
        left = jax.random.normal(jax.random.key(0), (COPIES, *self.left))
        right = jax.random.normal(jax.random.key(1), self.right)
        dims = (((self.dims[0],), (self.dims[1],)), ((), ()))

        @jax.jit
        def multiply_all(left: jax.Array, right: jax.Array) -> jax.Array:
            first = jnp.zeros_like(lax.dot_general(left[0], right, dims))
            body = lambda _, x: (lax.dot_general(x, right, dims), None)  # noqa: E731
            return lax.scan(body, first, left)[0]

        return seconds_of(lambda: multiply_all(left, right)) / COPIES


def products(batch_size: int, sizes: list[int]) -> dict[str, Product]:
    """Return the matrix products of a step, the last kernel transposed as the step keeps it."""
    named = {}
    for number, (a, b) in enumerate(itertools.pairwise(sizes), 1):
        inputs, outputs = (batch_size, a), (batch_size, b)
        last = number == len(sizes) - 1
        kernel, features = ((b, a), 1) if last else ((a, b), 0)
        named[f"layer {number} forward"] = Product(inputs, kernel, (1, features))
        pair = (outputs, inputs) if last else (inputs, outputs)
        named[f"layer {number} kernel gradient"] = Product(*pair, (0, 0))
        if number > 1:
            named[f"layer {number} input gradient"] = Product(outputs, kernel, (1, 1 - features))
    return named


def measure(batch_size: int, sizes: list[int], precision: str) -> dict[str, Any]:
    """Return rates in operations and bytes a second, and the seconds of the step's products."""
    jax.config.update("jax_default_matmul_precision", JAX_PRECISION[precision])
    big = jax.random.normal(jax.random.key(0), (SIDE, SIDE))
    square = jax.jit(lambda a: a @ a)
    all_products = products(batch_size, sizes)
    each = {name: product.seconds() for name, product in all_products.items()}
    operations = sum(product.flops for product in all_products.values())
    long, other = jnp.zeros(64 << 20, jnp.float32), jnp.ones(64 << 20, jnp.float32)
    triad = jax.jit(lambda x, y: x + 0.5 * y)
    return {
        "matrix_flops": 2 * SIDE**3 / seconds_of(lambda: square(big)),
        "bytes_per_second": 3 * long.nbytes / seconds_of(lambda: triad(long, other)),
        "products_seconds": sum(each.values()),
        "products_flops": operations / sum(each.values()),
        "each_product_seconds": each,
    }
