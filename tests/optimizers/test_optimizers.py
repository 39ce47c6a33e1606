"""Optimizers through the training step equal plain optax loops; wrong ones are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.steps import BATCH, batches, make_task, place, place_inputs

from trainer.job.errors import ConfigError
from trainer.optimizers import make as optimizers
from trainer.optimizers.optimizer import Update
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.tasks.task import apply, losses_and_metrics

STEPS = 50
WEIGHTS = {"w": jax.ShapeDtypeStruct((2, 3), np.float32)}
CASES = {
    "adamw": (("adamw", None, None, {"weight_decay": 0.1}), optax.adamw, 1e-3),
    "lion": (("lion", None, None, {"b2": 0.98}), functools.partial(optax.lion, b2=0.98), 1e-4),
    "sgd": (("sgd", 0.9, True, {}), functools.partial(optax.sgd, momentum=0.9, nesterov=True), 0.1),
    "clipped": (("adam", None, None, {}), optax.adam, 1e-3),
}


def plain_loop(transformation, weights, data, lr):
    """Train as the documentation of optax does: the mean loss of whole batches."""
    task = make_task()

    def loss(weights, images, labels):
        examples = {"image": images, "label": labels}
        return jnp.mean(losses_and_metrics(task, apply(task, weights, examples), examples)[0])

    @jax.jit
    def update(weights, state, images, labels):
        gradients = jax.grad(loss)(weights, images, labels)
        updates, state = transformation.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = transformation.init(weights)
        for images, labels in zip(data.examples["image"], data.examples["label"], strict=True):
            weights, state = update(weights, state, images, labels)
    return weights


@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_are_those_of_a_plain_optax_loop(name):
    arguments, make, lr = CASES[name]
    clip_norm = 0.5 if name == "clipped" else None
    mesh, data = meshes.make_mesh(2), batches(STEPS, short=0)
    weights = jax.device_get(make_task().init(jax.random.PRNGKey(2)))
    update = Update(optimizers.make(*arguments, weights), clip_norm)
    state = step.TrainState(weights, jax.device_get(update.optimizer.init(weights)), np.int32(0))
    program = step.make_train_step(make_task(), update, mesh, "shard_map")
    inputs = place_inputs(mesh, data, range(STEPS), np.full(STEPS, lr, np.float32))
    ours, metrics = jax.device_get(program(place(mesh, state), inputs))
    assert metrics.sums[:, -1].tolist() == [BATCH] * STEPS

    options = arguments[3] if name == "adamw" else {}
    plain = make(lr, **options)
    if clip_norm:
        plain = optax.chain(optax.clip_by_global_norm(clip_norm), plain)
    expected = jax.device_get(plain_loop(plain, weights, data, lr))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected, weights)
    assert min(jax.tree.leaves(moved)) > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours.weights, expected)


def test_the_learning_rate_is_a_value_and_not_in_the_state():
    made = optimizers.make("adamw", None, None, {}, WEIGHTS)
    weights = {"w": jnp.ones((2, 3))}
    state, gradients = made.init(weights), {"w": jnp.full((2, 3), 0.5)}
    once, same = (made.step(gradients, state, weights, jnp.float32(lr)) for lr in (0.1, 0.2))
    np.testing.assert_allclose(2 * once[0]["w"], same[0]["w"], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, once[1], same[1])


def test_an_optimizer_of_optax_s_contributions_and_one_s_own(tmp_path, monkeypatch):
    assert optimizers.make("muon", None, None, {}, WEIGHTS).init({"w": jnp.ones((2, 3))})
    (tmp_path / "mine.py").write_text(
        "import optax\n\ndef make(learning_rate, decay):\n    return optax.sgd(learning_rate)\n"
    )
    monkeypatch.chdir(tmp_path)
    made = optimizers.make("mine.make", None, None, {"decay": 0.5}, WEIGHTS)
    updates, _ = made.step({"w": jnp.ones(3)}, made.init({"w": jnp.ones(3)}), {}, jnp.float32(0.1))
    np.testing.assert_allclose(updates["w"], 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamv", {}, "optim.name=adamv: there is no such function"),
        ("adamw", {"beta": 0.9}, "optim.name=adamw optim.options={'beta': 0.9}: .*beta"),
        ("nowhere.make", {}, "optim.name=nowhere: there is no such module"),
        (None, {}, "optim.name=null: name a function of optax"),
    ],
)
def test_one_that_cannot_be_made_is_named(name, options, message):
    with pytest.raises(ConfigError, match=message):
        optimizers.make(name, None, None, options, WEIGHTS)
