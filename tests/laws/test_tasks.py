"""The laws of training, for the MLP and for every task in examples/."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from support.steps import assert_equal, place, place_inputs

from trainer.config import user_module
from trainer.config.schema import AugmentConfig
from trainer.data.dataset import Dataset, Superbatch
from trainer.data.stream import Plan, Superbatches
from trainer.optimizers.optimizer import from_optax
from trainer.parallel import evaluation, step
from trainer.parallel import mesh as meshes
from trainer.sources import load
from trainer.tasks import make, mlp, module
from trainer.tasks.task import Task, apply, losses_and_metrics

EXAMPLES = Path(__file__).parents[2] / "examples"
BATCH, STEPS, K, DEVICES = 16, 6, 3, 4

# As small as they can be: most of the time is XLA's, for compiling.
OPTIONS = {
    "cnn": {"channels": 4, "features": 8},
    "transformer": {"layers": 1, "features": 16, "heads": 2},
    "tabular": {"width": 8},
    "flax_module": {},
}
DATA_OPTIONS = {"transformer": {"size": 1200, "length": 8}}
OPTIMIZER = from_optax(optax.adamw, {"weight_decay": 0.01})  # SGD's are in the file beside


class Subject(NamedTuple):
    """A task, with data for it."""

    task: Task
    dataset: Dataset
    batches: Superbatch  # STEPS of them, the last short


def small_images() -> Dataset:
    rng = np.random.default_rng(0)

    def split(size):
        image = rng.integers(0, 256, (size, 8, 8), np.uint8)
        return {"image": image, "label": rng.integers(0, 10, size).astype(np.uint8)}

    return Dataset("noise", split(200), split(23))


@functools.cache
def subject(name) -> Subject:
    if name in ("mlp", "augmented"):
        dataset = small_images()
        objective = mlp.Objective("softmax_crossentropy", 10, 33.3, 78.6)
        task = mlp.make(objective, (8, 8), [24, 12], "he_normal")
        if name == "augmented":
            changes = AugmentConfig(shift=2, crop=1, flip=True, cutout=3, mixup=0.4)
            task = make.augmented(task, changes)
    else:
        own = user_module.load("model.module", str(EXAMPLES / name / f"{name}.py"))
        dataset = small_images()
        if hasattr(own, "load"):
            given = user_module.options("", own, "DataOptions", DATA_OPTIONS.get(name, {}))
            dataset = load.checked(own.load(given), name)
        options = user_module.options("", own, "Options", OPTIONS[name])
        shapes = {
            field: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for field, x in dataset.train.items()
        }
        task = module.make(own, options, shapes)
    stream = Superbatches(
        {field: x[: STEPS * BATCH - 3] for field, x in dataset.train.items()},
        plan=Plan(STEPS, STEPS, STEPS),
        global_batch_size=BATCH,
        rows=slice(0, BATCH),
        seed=1,
        first_step=0,
        needs=task.needs,
    )
    return Subject(task, dataset, stream[0])


@functools.cache
def program(name, devices, k, virtual_shards):
    """The compiled program of K steps."""
    mesh, task = meshes.make_mesh(devices), subject(name).task
    jitted = step.make_train_step(task, step.Update(OPTIMIZER), mesh, "shard_map", virtual_shards)
    inputs = place_inputs(mesh, subject(name).batches, range(k), np.ones(STEPS, np.float32))
    return jitted.lower(place(mesh, first_state(name)), inputs).compile()


@functools.cache
def first_weights(name):
    with jax.transfer_guard("allow"):
        return jax.device_get(jax.jit(subject(name).task.init)(jax.random.PRNGKey(1)))


@functools.cache
def first_state(name):
    weights = first_weights(name)
    with jax.transfer_guard("allow"):
        optim_state = jax.device_get(OPTIMIZER.init(weights))
    return step.TrainState(weights, optim_state, np.zeros((), np.int32))


def run(name, devices, k=1, steps=range(STEPS), state=None, virtual_shards=None):
    """Do some steps, K a dispatch; return the state and the metrics, on the host."""
    mesh, train_step = meshes.make_mesh(devices), program(name, devices, k, virtual_shards)
    state = place(mesh, first_state(name) if state is None else state)
    lrs, seen = np.full(STEPS, 1e-3, np.float32), []
    for lo in range(steps.start, steps.stop, k):
        inputs = place_inputs(mesh, subject(name).batches, range(lo, lo + k), lrs)
        state, metrics = train_step(state, inputs)
        seen.append(jax.device_get(metrics.packed))
    return jax.device_get(state), np.concatenate(seen)


@functools.cache
def six_steps(name):
    """The states before each of six steps on one device, and after them."""
    states = [first_state(name)]
    for i in range(STEPS):
        states.append(run(name, 1, steps=range(i, i + 1), state=states[-1])[0])
    return states


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


@tasks
def test_a_step_holds_exactly_one_all_reduce(name):
    text = program(name, DEVICES, K, None).as_text()
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
