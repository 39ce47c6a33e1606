"""The laws of training, for the MLP and for every task in examples/."""

import jax
import numpy as np
import pytest
from support.steps import assert_equal, place
from support.tasks import (
    DEVICES,
    OPTIONS,
    STEPS,
    K,
    first_state,
    first_weights,
    program,
    run,
    six_steps,
    subject,
)

from trainer.parallel import evaluation
from trainer.parallel import mesh as meshes
from trainer.tasks.task import apply, losses_and_metrics

tasks = pytest.mark.parametrize("name", ["mlp", *OPTIONS])
and_augmented = pytest.mark.parametrize("name", ["mlp", "augmented", *OPTIONS])


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


@tasks
def test_one_step_on_n_devices_is_one_step_on_one_from_any_state_of_a_training(name):
    states = six_steps(name)
    for i in (0, 1, STEPS - 1):
        after, _ = run(name, DEVICES, steps=range(i, i + 1), state=states[i])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
            after.weights,
            states[i + 1].weights,
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, rtol=1e-4, atol=1e-6 * max(1, np.abs(b).max())
            ),
            after.optim_state,
            states[i + 1].optim_state,
        )


@and_augmented
def test_k_steps_in_one_dispatch_are_k_dispatches_bit_for_bit(name):
    assert_equal(run(name, DEVICES, K), run(name, DEVICES, 1))


@tasks
def test_six_steps_are_three_and_three_from_the_host(name):
    first, expected = first_state(name), run(name, DEVICES, K)[0]
    state, _ = run(name, DEVICES, K, steps=range(K))
    state, _ = run(name, DEVICES, K, steps=range(K, STEPS), state=state)
    assert_equal(state, expected)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    changed = jax.tree.map(lambda a, b: (a != b).any(), first.weights, state.weights)
    assert all(jax.tree.leaves(changed))


@and_augmented
def test_virtual_shards_give_the_same_bits_on_any_number_of_devices(name):
    expected = run(name, 1, virtual_shards=DEVICES)
    assert_equal(run(name, DEVICES, virtual_shards=DEVICES), expected)


def test_with_augmentation_parts_of_a_batch_and_of_the_pass_give_its_gradients():
    how = {"accumulate": 2, "remat_parts": 2}
    whole, _ = run("augmented", 1, steps=range(1))
    parts, _ = run("augmented", DEVICES, steps=range(1), **how)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        parts.weights,
        whole.weights,
    )
    shards = {**how, "virtual_shards": DEVICES}
    assert_equal(run("augmented", DEVICES, K, **shards), run("augmented", 1, 1, **shards))


@tasks
def test_a_step_holds_exactly_one_all_reduce(name):
    text = program(name, DEVICES, K)[1].as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {other}(" not in text


@tasks
def test_an_evaluation_counts_every_example_once(name):
    task, dataset, _ = subject(name)
    mesh, weights = meshes.make_mesh(2), first_weights(name)
    eval_step = evaluation.make_eval_step(task, mesh)
    evaluator = evaluation.Evaluator(eval_step, task.metric_names, dataset.test, mesh, 7)
    result = evaluator(place(mesh, weights))
    with jax.transfer_guard("allow"):

        @jax.jit
        def all_at_once(weights, examples):
            return losses_and_metrics(task, apply(task, weights, examples), examples)

        each = jax.device_get(all_at_once(weights, dataset.test))
    size = len(next(iter(dataset.test.values())))
    assert result.examples == size == len(each[0])
    assert list(result.means) == ["loss", *task.metric_names]
    for mean, values in zip(result.means.values(), each, strict=True):
        np.testing.assert_allclose(mean, np.mean(values, dtype=np.float64), rtol=1e-5)
