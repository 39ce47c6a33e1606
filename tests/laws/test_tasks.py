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
from trainer.optimizers.optimizer import from_optax, stochastic_gradient_descent
from trainer.parallel import evaluation, step
from trainer.parallel import mesh as meshes
from trainer.sources import load
from trainer.tasks import make, mlp, module
from trainer.tasks.task import Task, apply, losses_and_metrics

EXAMPLES = Path(__file__).parents[2] / "examples"
BATCH, STEPS = 16, 6

# As small as they can be: most of the time is XLA's, for compiling.
OPTIONS = {
    "cnn": {"channels": 4, "features": 8},
    "transformer": {"layers": 1, "features": 16, "heads": 2},
    "tabular": {"width": 8},
    "flax_module": {},
}
DATA_OPTIONS = {"transformer": {"size": 1200, "length": 8}}
OPTIMIZERS = {
    "sgd": stochastic_gradient_descent(0.9, nesterov=True),
    "adamw": from_optax(optax.adamw, {"weight_decay": 0.01}),
}
CASES = [
    *[(name, "adamw") for name in ("mlp", "augmented", *OPTIONS)],
    *[(name, "sgd") for name in ("tabular", "flax_module")],  # the MLP's are in the file beside
]


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
def program(name, optimizer, devices, virtual_shards=None):
    mesh = meshes.make_mesh(devices)
    update = step.Update(OPTIMIZERS[optimizer])
    return mesh, step.make_train_step(subject(name).task, update, mesh, "shard_map", virtual_shards)


@functools.cache
def first_weights(name):
    with jax.transfer_guard("allow"):
        return jax.device_get(jax.jit(subject(name).task.init)(jax.random.PRNGKey(1)))


@functools.cache
def first_state(name, optimizer):
    weights = first_weights(name)
    with jax.transfer_guard("allow"):
        optim_state = jax.device_get(OPTIMIZERS[optimizer].init(weights))
    return step.TrainState(weights, optim_state, np.zeros((), np.int32))


def run(case, devices, k=1, steps=range(STEPS), state=None, virtual_shards=None):
    """Do some steps, K a dispatch; return the state and the metrics, on the host."""
    mesh, train_step = program(*case, devices, virtual_shards)
    state = place(mesh, first_state(*case) if state is None else state)
    lr = 1e-6 if case == ("tabular", "sgd") else 1e-3  # its errors are squares of about 100
    lrs, seen = np.full(STEPS, lr, np.float32), []
    for lo in range(steps.start, steps.stop, k):
        inputs = place_inputs(mesh, subject(case[0]).batches, range(lo, lo + k), lrs)
        state, metrics = train_step(state, inputs)
        seen.append(jax.device_get(metrics.packed))
    return jax.device_get(state), np.concatenate(seen)


@functools.cache
def six_steps(case):
    """The states before each of six steps on one device, and after them."""
    states = [first_state(*case)]
    for i in range(STEPS):
        states.append(run(case, 1, steps=range(i, i + 1), state=states[-1])[0])
    return states


cases = pytest.mark.parametrize("case", CASES, ids="-".join)


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


@cases
@pytest.mark.parametrize("devices", [2, 4])
def test_one_step_on_n_devices_is_one_step_on_one_from_any_state_of_a_training(case, devices):
    states = six_steps(case)
    for i in (0, 1, STEPS - 1):
        after, _ = run(case, devices, steps=range(i, i + 1), state=states[i])
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


@cases
def test_k_steps_in_one_dispatch_are_k_dispatches_bit_for_bit(case):
    assert_equal(run(case, 4, k=6), run(case, 4, k=1))


@cases
def test_six_steps_are_three_and_three_from_the_host(case):
    states = six_steps(case)  # each was on the host
    state, _ = run(case, 1, k=3, steps=range(3))
    assert_equal(state, states[3])
    assert_equal(run(case, 1, k=3, steps=range(3, 6), state=state)[0], states[6])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    changed = jax.tree.map(lambda a, b: (a != b).any(), states[0].weights, states[6].weights)
    assert all(jax.tree.leaves(changed))


@cases
def test_virtual_shards_give_the_same_bits_on_any_number_of_devices(case):
    expected = run(case, 1, virtual_shards=4)
    for devices in (2, 4):
        assert_equal(run(case, devices, virtual_shards=4), expected)


@cases
def test_a_step_holds_exactly_one_all_reduce(case):
    mesh, train_step = program(*case, 4)
    batches, lrs = subject(case[0]).batches, np.ones(STEPS, np.float32)
    inputs = place_inputs(mesh, batches, range(STEPS), lrs)
    text = train_step.lower(place(mesh, first_state(*case)), inputs).compile().as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {other}(" not in text


@pytest.mark.parametrize("name", ["mlp", *OPTIONS])
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
