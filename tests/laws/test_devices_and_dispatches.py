"""The laws of the training step: devices, dispatches and methods change nothing."""

import jax
import numpy as np
import pytest
from support.steps import (
    assert_equal,
    batches,
    first_state,
    place,
    place_inputs,
    programs,
    train,
)

from trainer.parallel.compiler import CPU_STEP, GPU_STEP, step_options
from trainer.tasks.classification import LOSSES


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


# For a GPU four steps are in the body of the loop: K is less than that, as many, and no multiple.
@pytest.mark.parametrize(
    ("options", "devices", "k"),
    [
        *((CPU_STEP, devices, k) for devices, k in ((1, 6), (4, 3), (4, 6))),
        *((GPU_STEP, 1, k) for k in (3, 4, 6)),
        (GPU_STEP, 4, 6),
    ],
)
def test_k_steps_in_one_dispatch_are_k_dispatches_bit_for_bit(options, devices, k):
    assert_equal(train(devices, k, options=options), train(devices, 1, options=options))


@pytest.mark.parametrize("devices", [1, 4])
def test_the_form_for_a_gpu_changes_rounding_alone(devices):
    ours, usual = train(devices, 6, options=GPU_STEP), train(devices, 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, usual)


@pytest.mark.parametrize("devices", [4, 8])
def test_one_step_on_n_devices_is_one_step_on_one_from_any_state_of_a_training(devices):
    state = None
    for steps in (1, 2, 5):
        for_one, sums_one = train(1, 1, 1, state=state)
        for_n, sums_n = train(devices, 1, 1, state=state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), for_n, for_one)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums_n.sums, sums_one.sums
        )
        state, _ = train(1, 1, steps, state=state)


def test_pmap_is_shard_map_bit_for_bit():
    assert_equal(train(4, 3, method="pmap"), train(4, 3))


def test_six_steps_are_three_and_three_from_the_host():
    mesh, program = programs(4)
    data = batches(6)

    def go(state, lo, hi):
        inputs = place_inputs(mesh, data, range(lo, hi), np.full(6, 0.05, np.float32))
        state = place(mesh, state)
        return jax.device_get(program(state, inputs)[0])

    assert_equal(go(first_state(), 0, 6), go(go(first_state(), 0, 3), 3, 6))


@pytest.mark.parametrize(
    ("loss", "devices", "k"),
    [*((loss, 4, 6) for loss in LOSSES), *((next(iter(LOSSES)), *how) for how in ((1, 6), (2, 1)))],
)
def test_virtual_shards_give_the_same_bits_on_any_number_of_devices(loss, devices, k):
    expected = train(1, 1, virtual_shards=4, loss=loss)
    got = train(devices, k, virtual_shards=4, loss=loss)
    assert_equal(got, expected)


def test_virtual_shards_change_rounding_alone():
    state, _ = train(1, 1, virtual_shards=4)
    plain, _ = train(1, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, plain)


def test_virtual_shards_give_one_gpu_and_several_the_same_bits():
    def gpu(devices, k):
        return train(devices, k, virtual_shards=4, options=step_options("gpu", devices, 4))

    assert_equal(gpu(1, 6), gpu(4, 6))
    assert_equal(gpu(1, 6), gpu(1, 1))
