"""The laws of the training step with accumulation, averaged weights, clipping and norms."""

import jax
import numpy as np
import pytest
from support.steps import (
    BATCH,
    UPDATE,
    assert_equal,
    batches,
    first_state,
    make_task,
    place,
    place_inputs,
    programs,
    train,
)

from trainer.job.errors import ConfigError
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.parallel.compiler import CPU_STEP, GPU_STEP
from trainer.tasks.task import batch_gradients

ALL = {
    "precision": "bfloat16",
    "accumulate": 2,
    "ema_decay": 0.9,
    "clip_norm": 0.5,
    "log_norm": True,
}


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


@pytest.mark.parametrize(
    ("how", "devices", "options"),
    [({"ema_decay": 0.9}, 1, CPU_STEP), (ALL, 4, CPU_STEP), (ALL, 1, GPU_STEP)],
)
def test_k_steps_in_one_dispatch_are_k_dispatches_bit_for_bit(how, devices, options):
    how = {**how, "options": options}
    assert_equal(train(devices, 6, **how), train(devices, 1, **how))


def test_six_steps_are_three_and_three_from_the_host():
    mesh, program = programs(4, **ALL)
    first, data, rates = train(4, 1, 1, **ALL)[0], batches(6), np.full(6, 0.05, np.float32)

    def go(state, lo, hi):
        inputs = place_inputs(mesh, data, range(lo, hi), rates)
        return jax.device_get(program(place(mesh, state), inputs)[0])

    first = first._replace(step=np.int32(0))
    assert_equal(go(first, 0, 6), go(go(first, 0, 3), 3, 6))


@pytest.mark.parametrize(("devices", "k"), [(2, 1), (4, 6)])
def test_virtual_shards_give_the_same_bits_on_any_number_of_devices(devices, k):
    assert_equal(train(devices, k, virtual_shards=4, **ALL), train(1, 1, virtual_shards=4, **ALL))


@pytest.mark.parametrize(("how", "devices"), [({"accumulate": 4, "batch": 64}, 1), (ALL, 4)])
def test_one_step_is_that_of_one_device_without_accumulation(devices, how):
    plain, state = {**how, "accumulate": 1}, None
    for steps in (1, 2, 5):
        one, sums_one = train(1, 1, 1, state=state, **plain)
        other, sums = train(devices, 1, 1, state=state, **how)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), other, one)
        np.testing.assert_allclose(sums.packed[:, :-1], sums_one.packed[:, :-1], rtol=1e-5)
        state, _ = train(1, 1, steps, state=state, **plain)


def test_parts_of_a_batch_need_less_memory_and_one_all_reduce():
    def memory(devices, accumulate):
        mesh = meshes.make_mesh(devices)
        program = step.make_train_step(
            make_task(), UPDATE, mesh, "shard_map", accumulate=accumulate
        )
        inputs = place_inputs(mesh, batches(2, 4096), range(2), np.ones(2, np.float32))
        compiled = program.lower(place(mesh, first_state()), inputs).compile()
        text = compiled.as_text()
        assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(2, 8) < memory(2, 1) / 3


@pytest.mark.parametrize("skip", [False, True])
def test_the_average_is_that_of_a_plain_loop(skip):
    average, state = [np.float64(leaf) for leaf in jax.tree.leaves(first_state().weights)], None
    for number in range(6):
        rates = np.full(1, 1e30 if number == 3 else 0.05, np.float32)
        good = number < 4  # the loss of the step after the large one is not finite
        state, metrics = train(2, 1, 1, state=state, lrs=rates, skip=skip, ema_decay=0.9)
        assert metrics.finite[0] == good
        if good:
            weights = [np.float64(leaf) for leaf in jax.tree.leaves(state.weights)]
            average = [0.9 * a + 0.1 * w for a, w in zip(average, weights, strict=True)]
    for ours, expected in zip(jax.tree.leaves(state.ema), average, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_the_norm_is_that_of_the_mean_gradients_and_changes_no_weight():
    state, metrics = train(2, 3, clip_norm=0.5, log_norm=True)
    plain, _ = train(2, 3, clip_norm=0.5)
    assert_equal(state, plain)
    assert metrics.sums.shape[1] == 4
    with jax.transfer_guard("allow"):
        first = jax.tree.map(lambda x: x[0], batches(6))
        result = jax.jit(lambda w: batch_gradients(make_task(), w, first))(first_state().weights)
        squares = [np.sum(np.square(np.float64(g))) for g in jax.tree.leaves(result.gradients)]
    norm = np.sqrt(sum(squares)) / BATCH
    np.testing.assert_allclose(metrics.sums[0, -2] / metrics.sums[0, -1], norm, rtol=1e-5)


@pytest.mark.parametrize(
    ("devices", "virtual_shards", "accumulate", "message"),
    [
        (1, None, 3, "does not divide into train.accumulate=3: use a multiple of 3"),
        (2, None, 64, "into train.accumulate=64 on 2 devices: use a multiple of 128"),
        (2, 4, 3, "parallel.virtual_shards=4 x train.accumulate=3: use a multiple of 12"),
        (2, 3, 1, "parallel.virtual_shards=3 does not divide over 2 devices"),
    ],
)
def test_a_batch_that_does_not_divide_is_named(devices, virtual_shards, accumulate, message):
    with pytest.raises(ConfigError) as raised:
        meshes.check_division(devices, 64, virtual_shards, accumulate)
    assert message in str(raised.value)
    meshes.check_division(2, 64, 4, 16)
