"""The losses against formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.functional import losses

LOGITS = np.array([0.3, -1.0, 2.0, 0.5], np.float32)
sparse = losses.sparse_categorical_crossentropy_from_logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16"])
def test_integer_targets_give_the_loss_of_one_hot_targets(smoothing, dtype):
    logits, target = jnp.asarray(LOGITS), jnp.asarray(1, dtype)
    one_hot = (1 - smoothing) * jax.nn.one_hot(target, 4) + smoothing / 4
    ours = jax.value_and_grad(sparse)(logits, target, smoothing)
    theirs = jax.value_and_grad(losses.categorical_crossentropy_from_logits)(logits, one_hot)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def test_integer_targets_are_stable_and_a_class_that_does_not_exist_is_nan():
    logits = jnp.array([1e4, -1e4, -jnp.inf])
    assert sparse(logits, jnp.int32(1)) == 2e4
    np.testing.assert_array_equal(jax.grad(sparse)(logits, jnp.int32(0)), jnp.zeros(3))
    assert jnp.isnan(sparse(logits, jnp.int32(3)))
    assert jnp.isnan(sparse(logits, jnp.int32(-1)))


def test_mean_squared_error_is_the_mean_over_all_elements():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    value, gradient = jax.value_and_grad(losses.mean_squared_error)(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(value, ((a - b) ** 2).mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * (a - b) / 6, rtol=1e-6)


def test_binary_crossentropy_equals_the_formula():
    logits, targets = LOGITS, np.array([0, 1, 0.25, 1], np.float32)
    p = 1 / (1 + np.exp(-logits))
    value, gradient = jax.value_and_grad(losses.binary_crossentropy_from_logits)(
        jnp.asarray(logits), jnp.asarray(targets)
    )
    expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, (p - targets) / 4, rtol=1e-5)


def test_binary_crossentropy_is_stable():
    binary = jax.value_and_grad(losses.binary_crossentropy_from_logits)
    for logit, target, loss in ((1e4, 1, 0), (1e4, 0, 1e4), (-1e4, 1, 1e4), (-1e4, 0, 0)):
        value, gradient = binary(jnp.float32(logit), jnp.float32(target))
        assert value == loss
        assert gradient == (logit > 0) - target


ONES = jnp.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparse(jnp.ones((2, 3)), jnp.int32(1)), r"float32\[2, 3\] and int32\[\]"),
        (lambda: sparse(ONES, jnp.ones(3, jnp.int32)), r"float32\[3\] and int32\[3\]"),
        (lambda: sparse(ONES, jnp.float32(1)), r"integer target .* float32\[\]"),
        (lambda: sparse(jnp.ones(3, jnp.int32), jnp.int32(1)), r"got int32\[3\] and int32\[\]"),
        (lambda: losses.mean_squared_error(ONES, jnp.ones(2)), r"float32\[3\] and float32\[2\]"),
        (lambda: losses.mean_squared_error(ONES, jnp.ones(3, jnp.int32)), r"int32\[3\]"),
        (lambda: losses.binary_crossentropy_from_logits(*[ONES.astype("uint8")] * 2), "uint8"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()
