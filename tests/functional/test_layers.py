"""Activations, dropout, embeddings, norms and attention against formulas and jax.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.compare import check_value_and_gradients, draw

from trainer.functional import activation, attention, conv, dropout, embed, linear, norm


def test_weights_have_the_shapes_and_dtype_asked_for():
    key = jax.random.key(0)
    weights = [
        conv.init(key, 2, 3, (5, 4), dtype="bfloat16"),
        embed.init(key, 7, 3, dtype="bfloat16"),
        attention.init(key, 6, dtype="bfloat16"),
        norm.init(3, dtype="bfloat16"),
    ]
    shapes = [(5, 4, 2, 3), (3,), (7, 3), (6, 18), (18,), (6, 6), (6,), (3,), (3,)]
    assert [x.shape for x in jax.tree.leaves(weights)] == shapes
    assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype("bfloat16")}


def test_attention_draws_each_kernel_with_a_key_of_its_own():
    key, normal = jax.random.key(3), jax.nn.initializers.normal()
    qkv, output = attention.init(key, 4, normal)
    kernels = [linear.init(part, 4, 4, normal).kernel for part in jax.random.split(key, 4)]
    np.testing.assert_array_equal(jnp.hstack([qkv.kernel, output.kernel]), jnp.hstack(kernels))


def test_softmax_and_gelu_equal_jaxs():
    x = 10 * draw(3, 7)
    mask = draw(3, 7, seed=1) > 0
    check_value_and_gradients(activation.softmax, jax.nn.softmax, x)
    check_value_and_gradients(
        lambda x: activation.softmax(x, mask), lambda x: jax.nn.softmax(x, where=mask), x
    )
    check_value_and_gradients(activation.gelu, jax.nn.gelu, x)


def test_softmax_is_stable_and_a_row_where_nothing_counts_is_zero():
    x = jnp.array([[1e4, -1e4], [-jnp.inf, 0], [3, 4]])
    mask = jnp.array([[True, True], [True, True], [False, False]])
    np.testing.assert_array_equal(activation.softmax(x, mask), [[1, 0], [0, 1], [0, 0]])
    gradient = jax.grad(lambda x: activation.softmax(x, mask)[:, 0].sum())(x)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(x))


def test_dropout_keeps_the_mean_and_depends_on_the_key_alone():
    x, key = jnp.ones((100, 100)), jax.random.key(3)
    y = dropout.fwd(x, key, 0.25)
    np.testing.assert_allclose(jnp.unique(y), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose([(y == 0).mean(), y.mean()], [0.25, 1], atol=0.02)
    np.testing.assert_array_equal(y, jax.jit(dropout.fwd, static_argnums=2)(x, key, 0.25))
    assert (y != dropout.fwd(x, jax.random.key(4), 0.25)).any()
    assert dropout.fwd(x, None, 0.25) is dropout.fwd(x, key, 0.0) is x


def test_embed_looks_up_rows_and_an_unknown_token_is_nan():
    weights = embed.init(jax.random.key(0), 5, 3)
    tokens = jnp.array([[4, 0], [1, 1]], jnp.uint16)
    check_value_and_gradients(
        lambda table: embed.fwd(tokens, embed.Weights(table)),
        lambda table: jnp.dot(jax.nn.one_hot(tokens, 5), table),
        weights.table,
    )
    unknown = jnp.isnan(embed.fwd(jnp.array([-1, 4, 5]), weights))
    np.testing.assert_array_equal(unknown.all(1), [True, False, True])
    assert not unknown[1].any()


def norm_weights(features, bias=True):
    weights = norm.init(features, bias)
    return jax.tree.map(lambda x: x + draw(features, seed=2), weights)


def standardised(x, axes, epsilon):
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(var + epsilon)


@pytest.mark.parametrize(("shape", "bias"), [((8,), True), ((5, 8), False), ((4, 3, 8), True)])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm"])
def test_norms_equal_their_formulas(shape, name, bias):
    def theirs(x, weights):
        if name == "layer_norm":
            y = standardised(x, -1, 1e-2)
        elif name == "rms_norm":
            y = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-2)
        else:
            y = standardised(x.reshape(-1, 4, 2), (0, 2), 1e-2).reshape(shape)
        y = y * jnp.broadcast_to(weights.scale, shape)
        return y + jnp.broadcast_to(weights.bias, shape) if bias else y

    groups = {"groups": 4} if name == "group_norm" else {}
    check_value_and_gradients(
        lambda x, weights: getattr(norm, name)(x, weights, epsilon=1e-2, **groups),
        theirs,
        5 + draw(*shape),
        norm_weights(8, bias),
    )


def test_norms_of_bfloat16_compute_in_float32():
    x = (1000 + draw(512)).astype("bfloat16")
    y = norm.layer_norm(x, norm.init(512, dtype="bfloat16"))
    assert y.dtype == jnp.bfloat16
    wide = norm.layer_norm(x.astype("float32"), norm.init(512))
    np.testing.assert_allclose(y.astype("float32"), wide, rtol=0.01)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, (6,), (6, 6)])
def test_dot_product_attention_equals_jaxs(causal, masked):
    mask = None if masked is None else (draw(*masked, seed=5) > -0.5).at[..., 0].set(True)

    def theirs(q, k, v):
        whole = None if mask is None else jnp.broadcast_to(mask, (6, 6))[None]
        return jax.nn.dot_product_attention(q, k, v, mask=whole, is_causal=causal)

    check_value_and_gradients(
        lambda q, k, v: attention.dot_product(q, k, v, causal, mask),
        theirs,
        *(draw(6, 2, 4, seed=seed) for seed in range(3)),
    )


def test_attention_in_bfloat16_is_close():
    q, k, v = (draw(6, 2, 4, seed=seed) for seed in range(3))
    half = attention.dot_product(*(x.astype("bfloat16") for x in (q, k, v)), causal=True)
    assert half.dtype == jnp.bfloat16
    wide = attention.dot_product(q, k, v, causal=True)
    np.testing.assert_allclose(half.astype("float32"), wide, atol=0.03)


def test_attention_is_that_of_its_heads():
    weights = attention.init(jax.random.key(1), 8)
    x = draw(5, 8)
    qkv = (x @ weights.qkv.kernel).reshape(5, 3, 2, 4)
    seen = jax.nn.dot_product_attention(*(qkv[:, i] for i in range(3)), is_causal=True)
    expected = seen.reshape(5, 8) @ weights.output.kernel
    np.testing.assert_allclose(attention.fwd(x, weights, 2, causal=True), expected, atol=1e-6)


def test_a_causal_position_sees_nothing_after_it():
    weights = attention.init(jax.random.key(1), 8)
    x = draw(5, 8)
    changed = x.at[3:].set(0)
    before, after = (attention.fwd(x, weights, 2, causal=True) for x in (x, changed))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert (before[3:] != after[3:]).all()


def test_a_position_that_sees_nothing_gets_zeros():
    q = draw(3, 2, 4)
    mask = jnp.ones((3, 3), jnp.bool_).at[1].set(False)
    y, pull = jax.vjp(lambda q: attention.dot_product(q, q, q, mask=mask), q)
    assert (y[1] == 0).all()
    assert (y[0] != 0).all()
    assert jnp.isfinite(pull(y)[0]).all()


X = jnp.ones((3, 8))
BYTES = jnp.ones((3, 8), jnp.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: activation.gelu(BYTES), TypeError, "gelu .* uint8"),
        (lambda: activation.softmax(BYTES), TypeError, "softmax .* uint8"),
        (lambda: activation.softmax(X[0, 0]), TypeError, "scalar"),
        (lambda: activation.softmax(X, BYTES), TypeError, r"bool\[3, 8\], got uint8\[3, 8\]"),
        (lambda: dropout.fwd(BYTES, None, 0.5), TypeError, "uint8"),
        (lambda: dropout.fwd(X, None, 1.0), ValueError, "1.0"),
        (lambda: embed.fwd(X, embed.init(jax.random.key(0), 2, 2)), TypeError, "float32"),
        (lambda: norm.layer_norm(X, norm.init(4)), TypeError, r"\(..., 4\), got shape \(3, 8\)"),
        (lambda: norm.rms_norm(BYTES, norm.init(8, bias=False)), TypeError, "uint8, float32"),
        (lambda: norm.group_norm(X, norm.init(8), 3), ValueError, "3 groups"),
        (
            lambda: attention.fwd(X[0], attention.init(jax.random.key(0), 8), 2),
            TypeError,
            r"\(length, 8\), got shape \(8,\)",
        ),
        (
            lambda: attention.fwd(X, attention.init(jax.random.key(0), 8), 3),
            ValueError,
            "3 heads",
        ),
        (lambda: attention.dot_product(X, X, X), TypeError, r"float32\[3, 8\]"),
        (
            lambda: attention.dot_product(*[X[..., None]] * 3, mask=BYTES),
            TypeError,
            r"bool\[3\] or bool\[3, 3\], got uint8\[3, 8\]",
        ),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
