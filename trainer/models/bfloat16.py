"""Products of float32 matrices whose factors are rounded to bfloat16; the sums are float32.

A GPU rounds float32 factors by itself. A CPU has instructions for bfloat16, but XLA takes them only
where both factors ARE bfloat16. In the derivatives that autodiff writes down, one of them is not.
So they are given here; for a whole batch, because vmap would give every row a gradient of its own.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

ON_GPU = lax.DotAlgorithmPreset.BF16_BF16_F32


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return (rows, in) @ (in, out), all float32; or (in,) @ (in, out), without derivatives."""
    on_gpu = partial(lax.dot, precision=ON_GPU)
    result: jax.Array = lax.platform_dependent(x, kernel, cpu=_product, default=on_gpu)
    return result


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _dot(_narrow(x), _narrow(kernel), x.ndim - 1, 0)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    narrow = (_narrow(x), _narrow(kernel))
    return _dot(*narrow, 1, 0), narrow


def _backward(
    narrow: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), gradient = narrow, _narrow(gradient)
    return _dot(gradient, kernel, 1, 1), _dot(x, gradient, 0, 0)


_product.defvjp(_forward, _backward)


def _narrow(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16)


def _dot(a: jax.Array, b: jax.Array, dim_of_a: int, dim_of_b: int) -> jax.Array:
    """Multiply matrices, bfloat16, summing over a dim of each; float32."""
    dims = (((dim_of_a,), (dim_of_b,)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
