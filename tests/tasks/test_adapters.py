"""Modules of flax and equinox as tasks."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.job.errors import ConfigError
from trainer.tasks import adapters, module
from trainer.tasks.task import apply, named_leaves

SHAPES = {"x": jax.ShapeDtypeStruct((6,), "float32"), "label": jax.ShapeDtypeStruct((), "int32")}


def make_task(functions):
    init, fwd = functions
    return module.make(SimpleNamespace(__file__="own.py", init=init, fwd=fwd), {}, SHAPES)


def flax_functions(**layers):
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(6, 8, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            for name, make in layers.items():
                setattr(self, name, make(nnx, rngs))
            self.logits = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, example):
            return self.logits(self.dropout(nnx.relu(self.hidden(example["x"]))))

    return adapters.from_flax(lambda example, options, rngs: Net(rngs))


def equinox_functions():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        hidden: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        logits: eqx.nn.Linear

        def __init__(self, key):
            first, second = jax.random.split(key)
            self.hidden = eqx.nn.Linear(6, 8, key=first)
            self.dropout = eqx.nn.Dropout(0.5)
            self.logits = eqx.nn.Linear(8, 3, key=second)

        def __call__(self, example, key=None):
            x = jax.nn.relu(self.hidden(example["x"]))
            return self.logits(self.dropout(x, key=key))

    return adapters.from_equinox(lambda example, options, key: Net(key))


LAYOUT = {"flax": (flax_functions, "kernel", False), "equinox": (equinox_functions, "weight", True)}


@pytest.mark.parametrize("kind", LAYOUT)
def test_the_weights_that_are_given_are_used_and_dropout_is_of_training_alone(kind):
    functions, kernel, transposed = LAYOUT[kind]
    task = make_task(functions())
    assert task.is_random
    assert task.inputs == ("x",)
    weights = jax.jit(task.init)(jax.random.PRNGKey(0))
    weights = jax.tree.map(lambda leaf: leaf + 0.1, weights)
    named = {path: np.asarray(leaf) for path, leaf in named_leaves(weights).items()}
    assert set(named) == {f"{a}/{b}" for a in ("hidden", "logits") for b in (kernel, "bias")}

    def layer(x, name):
        matrix = named[f"{name}/{kernel}"]
        return x @ (matrix.T if transposed else matrix) + named[f"{name}/bias"]

    x = np.random.default_rng(0).random((5, 6), np.float32)
    examples = {"x": jnp.asarray(x), "label": jnp.zeros(5, jnp.int32)}
    expected = layer(np.maximum(layer(x, "hidden"), 0), "logits")
    forward = jax.jit(lambda keys: apply(task, weights, examples, keys))
    np.testing.assert_allclose(forward(None), expected, rtol=1e-5)
    keys = jax.random.split(jax.random.PRNGKey(1), 5)
    dropped = forward(keys)
    np.testing.assert_array_equal(dropped, forward(keys))
    assert not np.allclose(dropped, expected)
    assert not np.allclose(dropped, forward(jax.random.split(jax.random.PRNGKey(2), 5)))


@pytest.mark.parametrize("kind", LAYOUT)
def test_the_weights_are_drawn_from_the_key(kind):
    task = make_task(LAYOUT[kind][0]())
    one, same, other = (jax.tree.leaves(task.init(jax.random.PRNGKey(i))) for i in (0, 0, 1))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not a.any() or (a != c).any()  # biases begin with zeros


def test_statistics_across_examples_are_refused_in_words():
    functions = flax_functions(norm=lambda nnx, rngs: nnx.BatchNorm(8, rngs=rngs))
    with pytest.raises(ConfigError, match="has BatchStat, neither"):
        make_task(functions)
