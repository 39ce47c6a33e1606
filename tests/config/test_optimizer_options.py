"""The options optim.*: any optimizer of optax or one's own, and the words for a wrong one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainer.config.compose import compose
from trainer.job.errors import ConfigError
from trainer.optimizers import make, optimizer

WEIGHTS = {"body": {"w": np.ones((4, 3), np.float32)}, "head": np.ones(3, np.float32)}


def made(*arguments):
    (job,) = compose(["data=mnist_5k", *arguments])
    optim = job.config.optim
    return make.make(optim.name, optim.momentum, optim.nesterov, optim.options, WEIGHTS)


def stepped(own, steps=3):
    weights, state = WEIGHTS, own.init(WEIGHTS)
    for number in range(steps):
        gradients = jax.tree.map(lambda w, n=number: 0.1 * w + jnp.float32(n), weights)
        updates, state = own.step(gradients, state, weights, jnp.float32(0.01))
        weights = jax.tree.map(jnp.subtract, weights, updates)
    return weights


@pytest.mark.parametrize("name", ["rmsprop", "optax.adagrad", "muon", "optax.contrib.muon"])
def test_any_optimizer_of_optax_has_a_name(name):
    weights = stepped(made("optim=optax", f"optim.name={name}"))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(weights))


MINE = """
import optax

def make(learning_rate, body=1.0):
    each = {"body": optax.sgd(body * learning_rate), "head": optax.set_to_zero()}
    return optax.multi_transform(each, {"body": "body", "head": "head"})
"""


def test_an_optimizer_of_ones_own_may_treat_weights_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own_optimizer.py").write_text(MINE)
    name = ("optim=optax", "optim.name=my_own_optimizer.make")
    weights = stepped(made(*name, "optim.options.body=2"), steps=1)
    np.testing.assert_array_equal(weights["head"], WEIGHTS["head"])
    np.testing.assert_allclose(weights["body"]["w"], 1 - 0.02 * 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("optim=optax", "optim.name=null: name a function of optax: optim.name=adamw"),
        ("optim=optax optim.name=adamx", "optim.name=adamx: there is no such function: use sgd"),
        ("optim=optax optim.name=optax.adamx", "optim.name=optax.adamx: there is no such function"),
        ("optim=optax optim.name=optax.no.x", "optim.name=optax.no: there is no such module"),
        ("optim=optax optim.name=gone.make", "optim.name=gone: there is no such module"),
        ("optim=adamw optim.options.beta=1", "unexpected keyword argument 'beta': it is called"),
        ("optim=adamw optim.options.b1=x", "'b1': 'x', 'b2': 0.999"),
        ("optim=optax optim.name=lbfgs", "'value_fn': it is called with learning_rate and"),
        ("optim=adamw optim.options=null", "optim.options=null: give each by its name"),
        ("optim=adamw optim.options=3", "optim.options=3: give each by its name"),
        ("optim=adamw optim.momentum=0.9", "optim.momentum=0.9: only optim=sgd has it"),
        (
            "optim=sgd optim.momentum=null",
            "optim.momentum=null: optim=sgd needs it, like optim.momentum",
        ),
        ("optim.options.b1=0.9", "optim.options={'b1': 0.9}: optim=sgd has none: leave them out"),
        ("optim.clip_norm=0", "optim.clip_norm=0.0: use a finite number above 0"),
        ("optim=adamw optim.clip_norm=-1", "optim.clip_norm=-1.0: use a finite number above 0"),
        ("optim.clip_norm=inf", "optim.clip_norm=inf: use a finite number above 0"),
        ("checkpoint.best=accuracy", "checkpoint.best=accuracy: use METRIC:max or METRIC:min"),
        ("checkpoint.best=accuracy:best", "checkpoint.best=accuracy:best: use METRIC:max"),
        ("checkpoint.best=top-5:max", "checkpoint.best=top-5:max: use METRIC:max"),
    ],
)
def test_a_wrong_option_is_named_with_its_rule(arguments, message):
    with pytest.raises(ConfigError) as raised:
        made(*arguments.split())
    assert message in str(raised.value)
    assert raised.value.exit_code == 78


def test_the_largest_norm_is_that_of_all_gradients_together():
    gradients = {"a": np.full((2, 2), 2, np.float32), "b": np.full(9, 1, np.float32)}
    assert float(optimizer.global_norm(gradients)) == 5
