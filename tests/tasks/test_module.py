"""A user's module becomes a task: its loss, metrics, inputs, hooks and keys are used as given."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.steps import assert_equal, place_inputs
from support.user_modules import GOOD, HOOKS, IMPORTS, X

from trainer.data.dataset import Superbatch
from trainer.optimizers.optimizer import Update, stochastic_gradient_descent
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.tasks.task import Keys, batch_gradients, keys_of


def test_a_classifier_needs_no_loss(made):
    task = made(GOOD)
    assert task.metric_names == ("accuracy",)
    assert task.inputs == ("image",)
    assert not task.is_random
    weights = task.init(jax.random.PRNGKey(0))
    example = {"image": jnp.ones((3, 4), jnp.uint8), "label": jnp.uint8(2)}
    logits = task.fwd(example, weights, None)
    assert float(task.loss(logits, example)) == pytest.approx(
        float(jax.nn.logsumexp(logits) - logits[2]), rel=1e-6
    )
    hit = float(np.argmax(logits) == 2)
    assert float(task.metrics(logits, example)["accuracy"]) == hit
    assert set(task.outputs(logits)) == {"logits", "probabilities"}
    assert int(task.prediction(logits)["class"]) == np.argmax(logits)


def test_loss_metrics_and_outputs_may_take_the_options(made):
    task = made(
        GOOD
        + textwrap.dedent("""
        def loss(output, example, options):
            return options["weight"] * jnp.sum(output)

        def metrics(output, example, options):
            return {"weight": jnp.float32(options["weight"])}

        def outputs(output, options):
            return {"scaled": options["weight"] * output}
        """),
        options={"weight": 3.0},
    )
    output = jnp.ones(4)
    assert float(task.loss(output, {})) == 12
    assert float(task.metrics(output, {})["weight"]) == 3
    assert float(task.outputs(output)["scaled"][0]) == 3


def test_any_task_has_its_own_loss_metrics_and_inputs(made):
    task = made(
        IMPORTS
        + textwrap.dedent("""
        def init(key, example, options):
            return [{"a": jnp.ones(example["x"].shape)}, jnp.zeros(())]

        def fwd(example, weights, options):
            unused = jnp.sum(example["y"])
            return {"mean": jnp.dot(example["x"], weights[0]["a"]) + weights[1]}

        def loss(output, example):
            return jnp.square(output["mean"] - example["y"])

        def metrics(output, example):
            return {"error": jnp.abs(output["mean"] - example["y"])}
        """),
        example={
            "y": jax.ShapeDtypeStruct((), np.float32),
            "x": jax.ShapeDtypeStruct((5,), np.float32),
        },
    )
    assert task.metric_names == ("error",)
    assert task.inputs == ("x",)
    assert task.prediction is None
    example = {"x": jnp.ones(5), "y": jnp.float32(2)}
    output = task.fwd(example, task.init(jax.random.PRNGKey(0)), None)
    assert {name: float(value) for name, value in task.outputs(output).items()} == {"mean": 5}
    assert float(task.loss(output, example)) == 9
    assert float(task.metrics(output, example)["error"]) == 3


def test_the_hooks_change_no_result(made):
    """Neither in a step nor in several; K steps in one dispatch are K dispatches of one."""
    plain, hooked = made(GOOD), made(GOOD + HOOKS)
    images = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)
    examples = {"image": images, "label": np.array([0, 1, 2, 0], np.uint8)}
    batch = Superbatch(examples, np.array([1, 1, 1, 0], np.uint8))
    weights = jax.device_get(plain.init(jax.random.PRNGKey(0)))
    wanted, result = (batch_gradients(task, weights, batch) for task in (plain, hooked))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        (result.gradients, result.sums),
        (wanted.gradients, wanted.sums),
    )
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(result.gradients))
    assert largest <= float(result.bound) < np.inf

    def train(task, k):
        mesh, update = meshes.make_mesh(1), Update(stochastic_gradient_descent(0.9, True))
        train_step = step.make_train_step(task, update, mesh, "shard_map")
        state = step.init_state(task, update, jax.random.PRNGKey(0), mesh)
        several = jax.tree.map(lambda x: np.stack([x] * 3), batch)
        for first in range(0, 3, k):
            lrs = np.full(3, 1e-4, np.float32)
            state, _ = train_step(state, place_inputs(mesh, several, range(first, first + k), lrs))
        return jax.device_get(state)

    assert_equal(train(hooked, 1), train(hooked, 3))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        train(hooked, 3),
        train(plain, 3),
    )


def test_a_key_depends_on_the_seed_the_step_and_the_example_alone(made):
    task = made(
        GOOD.replace("weights, options)", "weights, options, key)").replace(
            X, f"    if key is not None:\n        x = x * jax.random.normal(key, (12,))\n{X}"
        )
    )
    assert task.is_random
    examples = {"image": np.full((4, 3, 4), 9, np.uint8), "label": np.zeros(4, np.uint8)}
    batch = Superbatch(examples, np.ones(4, np.uint8), np.array([7, 2, 9, 4], np.int32))

    def keys(batch, seed=0, step=3):
        return np.asarray(keys_of(task, jnp.uint32(seed), jnp.int32(step), batch).fwd)

    turned = batch._replace(index=batch.index[::-1])
    np.testing.assert_array_equal(keys(batch), keys(turned)[::-1])
    assert len(np.unique(keys(batch), axis=0)) == 4
    assert (keys(batch) != keys(batch, seed=1)).any()
    assert (keys(batch) != keys(batch, step=4)).any()
    # Examples that are alike get masks of their own; a padded one counts as none.
    weights = task.init(jax.random.PRNGKey(0))
    parts = [
        batch_gradients(task, weights, batch._replace(mask=mask), Keys(keys(batch))).sums
        for mask in np.eye(4, dtype=np.uint8)
    ]
    losses = [float(part[0]) for part in parts]
    assert len(set(losses)) > 1
    assert [float(part[-1]) for part in parts] == [1] * 4
    whole = batch_gradients(task, weights, batch, Keys(keys(batch))).sums
    assert float(whole[0]) == pytest.approx(sum(losses), rel=1e-5)
