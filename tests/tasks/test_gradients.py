"""The gradients of a batch are those of its loss, and their bound holds whatever the numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.data.dataset import Superbatch
from trainer.tasks import mlp
from trainer.tasks.classification import LOSSES
from trainer.tasks.mlp import Objective
from trainer.tasks.task import batch_gradients

OBJECTIVE = Objective("softmax_crossentropy", 10, 33.3, 78.6)
NOTEBOOK = Objective("clipped_crossentropy", 10, 0.0, 1.0)
ROWS, PIXELS = 16, 20


def batch(masked=3) -> Superbatch:
    rng = np.random.default_rng(7)
    mask = np.ones(ROWS, np.uint8)
    mask[ROWS - masked :] = 0
    images = rng.integers(0, 256, (ROWS, PIXELS), np.uint8)
    labels = rng.integers(0, 10, ROWS).astype(np.uint8)
    return Superbatch({"image": images, "label": labels}, mask)


def make_task(objective):
    return mlp.make(objective, (PIXELS,), [24, 12], "he_normal")


def weights(scale=1.0):
    drawn = make_task(OBJECTIVE).init(jax.random.PRNGKey(3))
    rng = np.random.default_rng(8)
    return [
        layer._replace(
            kernel=np.asarray(layer.kernel) * np.float32(scale),
            bias=rng.normal(0, 0.1, layer.bias.shape).astype(np.float32),
        )
        for layer in drawn
    ]


def plain_loss(weights, batch, objective):
    """The summed loss as one would write it down."""
    x = (batch.examples["image"].astype(jnp.float32) - objective.pixel_mean) / objective.pixel_std
    for kernel, bias in weights[:-1]:
        x = jnp.maximum(jnp.dot(x, kernel, precision="highest") + bias[None], 0)
    kernel, bias = weights[-1]
    logits = jnp.dot(x, kernel, precision="highest") + bias[None]
    targets = jax.nn.one_hot(batch.examples["label"], 10)
    losses = jax.vmap(LOSSES[objective.loss])(logits, targets)
    return jnp.sum(losses * batch.mask.astype(jnp.float32))


plain = jax.jit(jax.value_and_grad(plain_loss), static_argnums=2)


@functools.partial(jax.jit, static_argnums=2)
def gradients(weights, batch, objective):
    return batch_gradients(make_task(objective), weights, batch)


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("objective", [OBJECTIVE, NOTEBOOK])
def test_the_gradients_are_those_of_the_loss(objective):
    # Small weights: with raw pixels the notebook's softmax would saturate, and all be zero.
    held = weights(0.1 if objective is OBJECTIVE else 1e-3)
    loss, expected = plain(held, batch(), objective)
    result = gradients(held, batch(), objective)
    np.testing.assert_allclose(result.sums[0], loss, rtol=1e-5)
    assert largest(expected) > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest(expected)),
        result.gradients,
        expected,
    )


def test_masked_rows_change_nothing():
    noisy = batch()
    noisy.examples["image"][-3:], noisy.examples["label"][-3:] = 255, 9
    jax.tree.map(
        np.testing.assert_array_equal,
        gradients(weights(), noisy, OBJECTIVE)[::2],
        gradients(weights(), batch(), OBJECTIVE)[::2],
    )


@pytest.mark.parametrize("objective", [OBJECTIVE, NOTEBOOK])
@pytest.mark.parametrize("exponent", range(-12, 10, 3))
def test_no_gradient_is_larger_than_the_bound(exponent, objective):
    result = gradients(weights(10.0**exponent), batch(), objective)
    assert largest(result.gradients) <= 2 * float(result.bound)


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -1e30, 1e20, 1e10])
@pytest.mark.parametrize("leaf", range(6))
def test_gradients_that_are_not_finite_are_found(value, leaf, rows):
    leaves, structure = jax.tree.flatten(weights())
    leaves[leaf].flat[:: 5 if rows == ROWS else leaves[leaf].size] = value
    held = jax.tree.unflatten(structure, leaves)
    result = gradients(held, batch(ROWS - rows), OBJECTIVE)
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.gradients))
    message = bool(np.isfinite(result.sums[0]) & np.isfinite(2 * float(result.bound)))
    assert finite or not message
    if abs(value) <= 1e10:
        assert message


def test_a_product_that_overflows_between_finite_numbers_is_found():
    held = weights()
    for layer, value in zip(held, (1e-36, 1e19, 4e17), strict=True):
        layer.kernel[:] = value
        layer.bias[:] = 0
    held[-1].kernel[:, 0] *= -1
    images = np.full((ROWS, PIXELS), 255, np.uint8)
    white = batch(masked=ROWS - 2)._replace(
        examples={"image": images, "label": np.zeros(ROWS, np.uint8)}
    )
    result = gradients(held, white, OBJECTIVE)
    assert np.isfinite(result.sums[0])
    assert np.isfinite(result.gradients[0].bias).all()
    assert np.isinf(result.gradients[0].kernel).all()
    assert not np.isfinite(2 * float(result.bound))


def test_in_bfloat16_the_factors_are_rounded_and_the_sums_are_not():
    objective = OBJECTIVE._replace(precision="bfloat16")
    held = weights(0.1)
    exact, rounded = (gradients(held, batch(), each) for each in (OBJECTIVE, objective))
    off = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(b).max()),
        rounded.gradients,
        exact.gradients,
    )
    assert 1e-5 < max(jax.tree.leaves(off)) < 2**-6
    np.testing.assert_allclose(rounded.sums[0], exact.sums[0], rtol=1e-3)
    text = gradients.lower(held, batch(), objective).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 8  # forward, to each kernel, and to each input but the image
    for line in products:
        assert line.count("xbf16>") == 2, line
        assert line.rstrip().endswith("xf32>")
