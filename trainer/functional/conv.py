"""A 2-D convolution of ONE image (height, width, channels), and pooling."""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn.initializers import Initializer, glorot_uniform, zeros

Pair = tuple[int, int]  # (height, width)


class Weights(NamedTuple):
    """Weights of a convolution."""

    kernel: jax.Array  # (height, width, in_channels, out_channels)
    bias: jax.Array  # (out_channels,)


def init(
    key: jax.Array,
    in_channels: int,
    out_channels: int,
    window: Pair = (3, 3),
    kernel_initializer: Initializer = glorot_uniform(),  # noqa: B008  (a pure function)
    bias_initializer: Initializer = zeros,
    dtype: jax.typing.DTypeLike = "float32",
) -> Weights:
    """Draw the weights: the key is split in two, the first half makes the kernel.

    Returns a kernel (*window, in_channels, out_channels) and a bias (out_channels,), both of
    `dtype`.
    """
    kernel_key, bias_key = jax.random.split(key)
    return Weights(
        kernel_initializer(kernel_key, (*window, in_channels, out_channels), dtype),
        bias_initializer(bias_key, (out_channels,), dtype),
    )


def fwd(
    x: jax.Array,
    weights: Weights,
    activation_fn: Callable[[jax.Array], jax.Array] | None = None,
    precision: lax.Precision | None = None,
    strides: Pair = (1, 1),
    padding: str = "SAME",
) -> jax.Array:
    """Convolve one image x (height, width, in_channels), giving (height', width', out_channels).

    Callers vmap over batches and cast beforehand.

    Args:
        x: the image.
        weights: of x's dtype.
        activation_fn: applied to the result.
        precision: of the products.
        strides: from one window to the next.
        padding: "SAME", zeros around the image, for height' = ceil(height / stride), or "VALID",
            none, for height' = ceil((height - window + 1) / stride).

    Raises:
        TypeError: at trace time, if x is not of rank 3, or its channels or dtype differ from the
            kernel's.
        ValueError: the padding has another name, or no window fits into the image.
    """
    kernel, bias = weights
    if x.ndim != 3 or x.shape[2] != kernel.shape[2]:
        raise TypeError(
            f"conv.fwd takes one image of shape (height, width, {kernel.shape[2]}), got shape "
            f"{x.shape}: use jax.vmap for batches"
        )
    if not x.dtype == kernel.dtype == bias.dtype:
        raise TypeError(
            f"conv.fwd takes x, kernel and bias of one dtype, got {x.dtype}, {kernel.dtype} and "
            f"{bias.dtype}: cast explicitly"
        )

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve with XLA's own operation: what GPUs have libraries for."""
        dims = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x[None], kernel, strides, padding, dimension_numbers=dims, precision=precision
        )[0]

    def matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve as one matrix product: (positions, window * in) @ (window * in, out).

        On a CPU this trains about 15 times faster: inside a loop, as the one over the steps of a
        dispatch, XLA's CPU falls back to a naive convolution. A vmap over images gives one product
        with more rows, not many products.
        """
        height, width, _, channels = kernel.shape
        pieces = jnp.stack(_shifted(x, (height, width), strides, padding, 0), axis=2)
        flat = kernel.reshape(height * width, -1, channels)
        return jnp.tensordot(pieces, flat, axes=((2, 3), (0, 1)), precision=precision)

    # Decided when the program is compiled for a platform, not by jax.default_backend() when it is
    # traced: jax.export makes one program for several platforms, on any of them.
    products = lax.platform_dependent(x, kernel, cpu=matrix_product, default=convolution)
    y = products + jnp.broadcast_to(bias, products.shape)
    return y if activation_fn is None else activation_fn(y)


def max_pool(
    x: jax.Array, window: Pair = (2, 2), strides: Pair | None = None, padding: str = "VALID"
) -> jax.Array:
    """Return the maximum of each window of one image x (height, width, channels).

    The gradient of a window goes to its first maximum. Strides are those of the window by default;
    padding as in `fwd`, but what is outside the image never is the maximum.

    Raises:
        TypeError: at trace time, if x is not of rank 3 or not floating.
        ValueError: the padding has another name, or no window fits into the image.
    """
    _check_pool("max_pool", x)

    # Not jnp.maximum, which splits the gradient between equals. The second condition keeps NaN.
    def larger(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where((a >= b) | (a != a), a, b)

    return reduce(larger, _shifted(x, window, strides or window, padding, -jnp.inf))


def average_pool(
    x: jax.Array, window: Pair = (2, 2), strides: Pair | None = None, padding: str = "VALID"
) -> jax.Array:
    """Return the mean of each window of one image x (height, width, channels).

    Strides are those of the window by default; padding as in `fwd`, but what is outside the image
    does not count.

    Raises:
        TypeError: at trace time, if x is not of rank 3 or not floating.
        ValueError: the padding has another name, or no window fits into the image.
    """
    _check_pool("average_pool", x)
    strides = strides or window
    total = reduce(jnp.add, _shifted(x, window, strides, padding, 0))
    # How many elements of each window are inside the image: XLA computes it while compiling.
    inside = jnp.ones((*x.shape[:2], 1), x.dtype)
    count = reduce(jnp.add, _shifted(inside, window, strides, padding, 0))
    return total * jnp.broadcast_to(1 / count, total.shape)


def _shifted(
    x: jax.Array, window: Pair, strides: Pair, padding: str, fill: float
) -> list[jax.Array]:
    """Return, for each place in the window, row by row, the element there of every window.

    Takes an image (height, width, channels), gives window[0] * window[1] arrays (height', width',
    channels); outside of the image everything is `fill`.
    """
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding {padding!r} is neither 'SAME' nor 'VALID'")
    places = [(i, j) for i in range(window[0]) for j in range(window[1])]
    pads = lax.padtype_to_pads(x.shape[:2], window, strides, padding)
    if any(low or high for low, high in pads):
        x = jnp.pad(x, (*pads, (0, 0)), constant_values=fill)
    rows, columns = (
        (size - part) // stride + 1
        for size, part, stride in zip(x.shape[:2], window, strides, strict=True)
    )
    if rows <= 0 or columns <= 0:
        raise ValueError(f"a window of {window} does not fit into an image of {x.shape[:2]}")
    if strides == window:
        # Windows side by side: a view. The gradient of strided slices would be slower: padding
        # with gaps.
        x = x[: rows * window[0], : columns * window[1]]
        x = x.reshape(rows, window[0], columns, window[1], -1)
        return [x[:, i, :, j] for i, j in places]
    return [
        x[i : i + rows * strides[0] : strides[0], j : j + columns * strides[1] : strides[1]]
        for i, j in places
    ]


def _check_pool(name: str, x: jax.Array) -> None:
    if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"conv.{name} takes one image of shape (height, width, channels) and a floating dtype, "
            f"got {x.dtype}{list(x.shape)}"
        )
