"""The functional layer against formulas, by hand and in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.functional import linear, losses
from trainer.optimizers.optimizer import stochastic_gradient_descent


def test_linear_fwd_is_an_affine_map_then_the_activation():
    weights = linear.init(jax.random.key(0), 3, 2)
    x = np.array([1.0, -2.0, 3.0], np.float32)
    expected = x @ np.asarray(weights.kernel) + np.asarray(weights.bias)
    np.testing.assert_allclose(linear.fwd(jnp.asarray(x), weights), expected, rtol=1e-6)
    relu = linear.fwd(jnp.asarray(x), weights, jax.nn.relu)
    np.testing.assert_allclose(relu, np.maximum(expected, 0), rtol=1e-6)


def test_linear_init_splits_the_key_kernel_first():
    key = jax.random.key(7)
    first, second = jax.random.split(key)
    draw = jax.nn.initializers.normal()
    weights = linear.init(key, 4, 5, draw, draw)
    np.testing.assert_array_equal(weights.kernel, draw(first, (4, 5), "float32"))
    np.testing.assert_array_equal(weights.bias, draw(second, (5,), "float32"))


def test_linear_init_makes_the_dtype_asked_for():
    weights = linear.init(jax.random.key(0), 3, 2, dtype="bfloat16")
    assert weights.kernel.dtype == weights.bias.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 3), np.float32), r"shape \(2, 3\)"),
        (np.zeros(3, np.uint8), "uint8, float32"),
        (np.zeros(3, np.float16), "float16, float32"),
    ],
)
def test_linear_fwd_refuses_batches_and_other_dtypes(x, message):
    weights = linear.init(jax.random.key(0), 3, 2)
    with pytest.raises(TypeError, match=message):
        linear.fwd(jnp.asarray(x), weights)


def test_crossentropy_of_probabilities_and_of_logits_agree():
    logits = np.array([0.3, -1.0, 2.0], np.float32)
    targets = np.array([0.0, 1.0, 0.0], np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    expected = -np.log(probabilities[1])
    plain = losses.categorical_crossentropy(jnp.asarray(probabilities), jnp.asarray(targets))
    stable = losses.categorical_crossentropy_from_logits(jnp.asarray(logits), jnp.asarray(targets))
    np.testing.assert_allclose([plain, stable], [expected, expected], rtol=1e-6)


def test_crossentropy_from_logits_is_stable():
    logits = jnp.array([1e4, -1e4], jnp.float32)
    targets = jnp.array([0.0, 1.0], jnp.float32)
    assert losses.categorical_crossentropy_from_logits(logits, targets) == 2e4


def test_losses_refuse_integer_targets():
    with pytest.raises(TypeError, match="int32"):
        losses.categorical_crossentropy(jnp.ones(3), jnp.ones(3, jnp.int32))


def run_sgd(lrs, nesterov=False, momentum=0.5):
    weights = {"w": jnp.zeros(1)}
    sgd = stochastic_gradient_descent(momentum, nesterov)
    state = sgd.init(weights)
    seen = []
    for lr in lrs:
        step, state = sgd.step({"w": jnp.ones(1)}, state, weights, jnp.float32(lr))
        seen.append(float(step["w"][0]))
    return seen


def test_sgd_folds_the_learning_rate_into_the_velocity():
    np.testing.assert_allclose(run_sgd([0.1, 0.1, 0.2]), [0.1, 0.15, 0.275], rtol=1e-6)


def test_sgd_nesterov_looks_one_step_ahead():
    # v = .1, .15, .275; the step is .5 v + lr
    expected = [0.15, 0.175, 0.3375]
    np.testing.assert_allclose(run_sgd([0.1, 0.1, 0.2], nesterov=True), expected, rtol=1e-6)


def test_sgd_without_momentum_is_gradient_descent():
    np.testing.assert_allclose(run_sgd([0.1, 0.2], momentum=0.0), [0.1, 0.2], rtol=1e-6)
