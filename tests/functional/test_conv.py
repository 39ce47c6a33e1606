"""Convolution and pooling against XLA's own operations; one matrix product a layer on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.compare import check_value_and_gradients, draw

from trainer.functional import conv

SHAPES = [
    # image, window, strides
    ((7, 6, 3), (3, 3), (1, 1)),
    ((7, 6, 3), (3, 2), (2, 1)),
    ((8, 10, 1), (2, 3), (2, 3)),
    ((5, 5, 2), (1, 1), (2, 2)),
]
each_shape = pytest.mark.parametrize(("shape", "window", "strides"), SHAPES)
each_padding = pytest.mark.parametrize("padding", ["SAME", "VALID"])


@each_shape
@each_padding
def test_convolution_equals_xlas(shape, window, strides, padding):
    arguments = draw(3, *shape), draw(*window, shape[2], 4), draw(4)

    def ours(x, kernel, bias):
        weights = conv.Weights(kernel, bias)
        return jax.vmap(lambda x: conv.fwd(x, weights, jnp.tanh, None, strides, padding))(x)

    def theirs(x, kernel, bias):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)
        return jnp.tanh(y + bias[None, None, None])

    check_value_and_gradients(ours, theirs, *arguments, atol=2e-5)


@each_shape
@each_padding
def test_max_pool_equals_xlas(shape, window, strides, padding):
    images = jnp.round(draw(3, *shape))  # many equal elements: the gradient goes to the first

    def theirs(x):
        sizes = (1, *window, 1), (1, *strides, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, *sizes, padding)

    ours = jax.vmap(lambda x: conv.max_pool(x, window, strides, padding))
    check_value_and_gradients(ours, theirs, images)


@each_shape
@each_padding
def test_average_pool_counts_only_what_is_inside(shape, window, strides, padding):
    def total(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, *window, 1), (1, *strides, 1), padding)

    ours = jax.vmap(lambda x: conv.average_pool(x, window, strides, padding))
    check_value_and_gradients(ours, lambda x: total(x) / total(jnp.ones_like(x)), draw(3, *shape))


def test_max_pool_keeps_nan():
    x = jnp.zeros((4, 4, 1)).at[1, 0].set(jnp.nan).at[2, 3].set(jnp.nan)
    np.testing.assert_array_equal(
        jnp.isnan(conv.max_pool(x))[..., 0], [[True, False], [False, True]]
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays(dtype):
    x = jax.ShapeDtypeStruct((4, 4, 2), dtype)
    weights = conv.Weights(
        jax.ShapeDtypeStruct((3, 3, 2, 3), dtype), jax.ShapeDtypeStruct((3,), dtype)
    )
    y = jax.eval_shape(lambda *x: conv.fwd(*x, jax.nn.relu), x, weights)
    assert {jax.eval_shape(f, y).dtype for f in (conv.max_pool, conv.average_pool)} == {y.dtype}
    assert y.dtype == dtype


def training_step(weights, images):
    def loss(weights):
        y = jax.vmap(lambda x: conv.max_pool(conv.fwd(x, weights)))(images)
        return jnp.sum(y * y)

    return jax.tree.map(lambda w, g: w - g, weights, jax.grad(loss)(weights)), None


def test_a_scanned_training_step_on_a_cpu_is_large_matrix_products():
    weights = conv.Weights(draw(3, 3, 3, 8), draw(8))
    inputs = draw(5, 16, 10, 10, 3)
    program = jax.jit(lambda *x: lax.scan(training_step, *x)[0]).lower(weights, inputs).as_text()
    assert "stablehlo.convolution" not in program
    products = re.findall(r"dot_general.*-> tensor<(.*)xf32>", program)
    assert sorted(products) == ["16x10x10x8", "8x9x3"]  # forward; the gradient of the kernel


def test_an_export_has_each_platforms_own_convolution():
    weights = conv.Weights(draw(3, 3, 3, 8), draw(8))
    argument = jax.ShapeDtypeStruct((10, 10, 3), jnp.float32)
    function = jax.jit(lambda x: conv.fwd(x, weights))
    operations = ("stablehlo.convolution(", "stablehlo.dot_general ")
    for platforms, has in (
        (["cpu"], [False, True]),
        (["cuda"], [True, False]),
        (["cpu", "cuda"], [True, True]),
    ):
        program = jax.export.export(function, platforms=platforms)(argument)
        assert [name in program.mlir_module() for name in operations] == has
    x = draw(10, 10, 3)
    np.testing.assert_allclose(program.call(x), conv.fwd(x, weights), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w: conv.fwd(x[None], w), TypeError, r"\(height, width, 3\).*\(1, 4, 4, 3\)"),
        (lambda x, w: conv.fwd(x[..., :2], w), TypeError, r"\(4, 4, 2\)"),
        (lambda x, w: conv.fwd(x.astype("uint8"), w), TypeError, "uint8, float32"),
        (lambda x, w: conv.fwd(x, w, padding="FULL"), ValueError, "'FULL'"),
        (lambda x, w: conv.max_pool(x, (5, 2)), ValueError, r"window of \(5, 2\) .* \(4, 4\)"),
        (lambda x, w: conv.max_pool(x.astype("uint8")), TypeError, r"uint8\[4, 4, 3\]"),
        (lambda x, w: conv.average_pool(x[0]), TypeError, r"average_pool .* float32\[4, 3\]"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(draw(4, 4, 3), conv.Weights(draw(3, 3, 3, 2), draw(2)))
