"""Random changes of ONE image while training: shift, crop, flip, cutout, and a mixture of two.

An image is (rows, columns) or (rows, columns, channels), of any dtype, which the result has, too.
The key is that of the example: equal keys, equal results. Callers vmap over batches.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def shift(image: jax.Array, key: jax.Array, most: int) -> jax.Array:
    """Move an image by up to `most` pixels along each side, with zeros where nothing was."""
    return _window(jnp.pad(image, _border(image, most)), key, most, image.shape)


def crop(image: jax.Array, key: jax.Array, border: int) -> jax.Array:
    """Mirror the edges outward by `border` pixels, and cut an image of the old size out of it.

    Raises:
        ValueError: the border is not smaller than a side of the image.
    """
    if border >= min(image.shape[:2]):
        raise ValueError(f"augment.crop takes a border smaller than {image.shape}, got {border}")
    padded = jnp.pad(image, _border(image, border), mode="reflect")
    return _window(padded, key, border, image.shape)


def flip(image: jax.Array, key: jax.Array) -> jax.Array:
    """Exchange left and right, in half of all cases."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def cutout(image: jax.Array, key: jax.Array, size: int) -> jax.Array:
    """Set a square of size x size pixels to zero; its middle is anywhere in the image."""
    row_key, column_key = jax.random.split(key)

    def covered(key: jax.Array, length: int) -> jax.Array:
        first = jax.random.randint(key, (), 0, length) - size // 2
        places = jnp.arange(length)
        return (places >= first) & (places < first + size)

    rows, columns = covered(row_key, image.shape[0]), covered(column_key, image.shape[1])
    inside = rows[:, None] & columns[None]
    return jnp.where(inside.reshape(*inside.shape, *[1] * (image.ndim - 2)), 0, image)


def mixup(
    image: jax.Array, other: jax.Array, key: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Return share * image + (1 - share) * other, and the share, (), float32.

    The share is from the distribution Beta(alpha, alpha), in steps of 1 / 256, so that products
    with pixels of 8 or 16 bits are exact. Integers are rounded.
    """
    quantiles = jnp.asarray(_beta_quantiles(alpha))
    share = quantiles[jax.random.randint(key, (), 0, len(quantiles))]
    parts = (share * image.astype(jnp.float32), (256 - share) * other.astype(jnp.float32))
    mixed = (parts[0] + parts[1]) * (1 / 256)
    if jnp.issubdtype(image.dtype, jnp.integer):
        mixed = jnp.round(mixed)
    return mixed.astype(image.dtype), share * (1 / 256)


def _border(image: jax.Array, width: int) -> list[tuple[int, int]]:
    return [(width, width)] * 2 + [(0, 0)] * (image.ndim - 2)


def _window(padded: jax.Array, key: jax.Array, most: int, shape: tuple[int, ...]) -> jax.Array:
    row, column = jax.random.randint(key, (2,), 0, 2 * most + 1)
    return lax.dynamic_slice(padded, (row, column, *[0] * (len(shape) - 2)), shape)


@functools.cache
def _beta_quantiles(alpha: float, count: int = 1024, points: int = 1 << 16) -> np.ndarray:
    """Return quantiles of 256 times a number from Beta(alpha, alpha), rounded, float32, (count,).

    A table, because jax.random.beta takes a loop of several draws for each number.
    """
    # The density is infinite at 0 where alpha < 1. It is not in u = x ** alpha, up to x = 1/2; the
    # other half is its mirror image.
    u = np.linspace(0, 0.5**alpha, points)
    x = u ** (1 / alpha)
    density = (1 - x) ** (alpha - 1)
    mass = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    half = np.interp((np.arange(count // 2) + 0.5) / (count // 2), mass / mass[-1], x)
    return np.round(256 * np.concatenate([half, 1 - half[::-1]])).astype(np.float32)
