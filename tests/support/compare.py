"""Compare two pure functions of arrays: their values and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np


def draw(*shape, seed=0):
    """Return normally distributed numbers, float32: drawn by numpy, which compiles nothing."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def check_value_and_gradients(ours, theirs, *arguments, atol=1e-5):
    """Assert equal values and equal gradients of each argument, of the same dtypes."""

    def results(function):
        def both(*arguments):
            value, pull = jax.vjp(function, *arguments)
            return value, pull(draw(*value.shape, seed=9))

        return jax.tree.leaves(jax.jit(both)(*arguments))

    for a, b in zip(results(ours), results(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=atol)
