"""The laws of the training step: devices, dispatches and methods change nothing."""

import functools

import jax
import numpy as np
import pytest

from trainer.data.dataset import Superbatch
from trainer.models import mlp
from trainer.parallel import compiler, step
from trainer.parallel import mesh as meshes
from trainer.parallel.mesh import make_mesh
from trainer.tasks.classification import LOSSES, Objective

OBJECTIVE = Objective("softmax_crossentropy", 10, 33.3, 78.6)
OPTIMIZER = step.Optimizer(momentum=0.9, nesterov=True, skip_nonfinite=False)
PIXELS, BATCH = 20, 16


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


def init_weights(key):
    return mlp.init(key, PIXELS, [24, 12], 10, "he_normal")


def batches(steps, batch=BATCH, short=3) -> Superbatch:
    rng = np.random.default_rng(5)
    mask = np.ones((steps, batch), np.uint8)
    mask[-1, batch - short :] = 0
    return Superbatch(
        rng.integers(0, 256, (steps, batch, PIXELS), np.uint8),
        rng.integers(0, 10, (steps, batch)).astype(np.uint8),
        mask,
    )


@functools.cache
def programs(
    devices,
    method="shard_map",
    virtual_shards=None,
    skip=False,
    loss=OBJECTIVE.loss,
    options=compiler.CPU_STEP,
):
    """The mesh and the training step, compiled once for all tests."""
    mesh = make_mesh(devices)
    optimizer = OPTIMIZER._replace(skip_nonfinite=skip)
    objective = OBJECTIVE._replace(loss=loss)
    return mesh, step.make_train_step(objective, optimizer, mesh, method, virtual_shards, options)


@functools.cache
def first_state():
    with jax.transfer_guard("allow"):
        return jax.device_get(step.init_state(init_weights, jax.random.PRNGKey(1), make_mesh(1)))


def place_feed(mesh, data, steps, lrs, stop=0):
    """Feed some steps of the data to a mesh."""
    part = jax.tree.map(lambda x: x[steps.start : steps.stop], data)
    votes = np.full((len(steps), mesh.size), stop, np.uint8)
    numbers = np.array(steps, np.int32)
    return step.DispatchInputs(
        *meshes.place(meshes.batched(mesh), (part, votes)),
        *meshes.place(meshes.replicated(mesh), (lrs[steps.start : steps.stop], numbers)),
    )


def train(devices, k, steps=6, method="shard_map", state=None, stop=0, lrs=None, **how):
    """Train some steps, K a dispatch; return the state and what was reduced, on the host."""
    mesh, program = programs(devices, method, **how)
    state = state or first_state()
    state = meshes.place(meshes.replicated(mesh), state._replace(step=np.zeros((), np.int32)))
    data, seen = batches(steps), []
    lrs = np.linspace(0.01, 0.1, steps, dtype=np.float32) if lrs is None else lrs
    for lo in range(0, steps, k):
        feed = place_feed(mesh, data, range(lo, min(lo + k, steps)), lrs, stop)
        state, reduced = program(state, feed)
        seen.append(jax.device_get(reduced))
    return jax.device_get(state), jax.tree.map(lambda *x: np.concatenate(x), *seen)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("options", [compiler.CPU_STEP, compiler.GPU_STEP])
@pytest.mark.parametrize("k", [2, 3, 4, 6])
@pytest.mark.parametrize("devices", [1, 4])
def test_k_steps_in_one_dispatch_are_k_dispatches_bit_for_bit(devices, k, options):
    assert_equal(train(devices, k, options=options), train(devices, 1, options=options))


@pytest.mark.parametrize("devices", [1, 4])
def test_the_form_for_a_gpu_changes_rounding_alone(devices):
    ours, usual = train(devices, 6, options=compiler.GPU_STEP), train(devices, 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, usual)


@pytest.mark.parametrize("devices", [2, 4, 8])
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


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_pmap_is_shard_map_bit_for_bit(devices):
    assert_equal(train(devices, 3, method="pmap"), train(devices, 3))


def test_six_steps_are_three_and_three_from_the_host():
    mesh, program = programs(2)
    data = batches(6)

    def go(state, lo, hi):
        feed = place_feed(mesh, data, range(lo, hi), np.full(6, 0.05, np.float32))
        state = meshes.place(meshes.replicated(mesh), state)
        return jax.device_get(program(state, feed)[0])

    assert_equal(go(first_state(), 0, 6), go(go(first_state(), 0, 3), 3, 6))


@pytest.mark.parametrize(("devices", "method"), [(8, "shard_map"), (2, "shard_map"), (4, "pmap")])
def test_a_step_holds_exactly_one_all_reduce_of_the_gradients_and_the_metrics(devices, method):
    mesh, program = programs(devices, method)
    state = meshes.place(meshes.replicated(mesh), first_state())
    feed = place_feed(mesh, batches(4), range(4), np.ones(4, np.float32))
    compiled = program.lower(state, feed).compile().as_text()
    assert compiled.count(" all-reduce(") + compiled.count(" all-reduce-start(") == 1
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {other}(" not in compiled


def test_the_state_is_donated():
    mesh, program = programs(2)
    state = meshes.place(meshes.replicated(mesh), first_state())
    program(state, place_feed(mesh, batches(1), range(1), np.ones(1, np.float32)))
    assert state.weights[0].kernel.is_deleted()


def test_any_stop_vote_is_seen_by_all():
    assert (train(4, 3, stop=0)[1].stop_votes == 0).all()
    assert (train(4, 3, stop=1)[1].stop_votes == 4).all()


def test_a_short_batch_weighs_by_its_examples():
    _, reduced = train(1, 6)
    assert reduced.sums.examples.tolist() == [16] * 5 + [13]


def exploding(bad):
    """Rates after which the loss of step `bad` overflows."""
    lrs = np.full(8, 0.01, np.float32)
    lrs[bad - 1] = 1e30
    return lrs


@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("bad", [1, 4, 7])
@pytest.mark.parametrize(
    "way", [{"method": "shard_map"}, {"method": "pmap"}, {"options": compiler.GPU_STEP}]
)
def test_a_step_that_is_not_finite_and_all_after_it_change_nothing(bad, k, way):
    state, reduced = train(2, k, 8, lrs=exploding(bad), **way)
    assert reduced.finite.tolist() == [True] * bad + [False] * (8 - bad)
    assert state.step == bad
    mesh, program = programs(2, **way)
    good = meshes.place(meshes.replicated(mesh), first_state())
    for i in range(bad):
        good, _ = program(good, place_feed(mesh, batches(8), range(i, i + 1), exploding(bad)))
    assert_equal(state, jax.device_get(good))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("options", [compiler.CPU_STEP, compiler.GPU_STEP])
def test_an_update_that_is_not_finite_can_be_skipped(options):
    for k in (1, 6):
        state, reduced = train(1, k, 6, skip=True, lrs=exploding(3)[:6], options=options)
        assert reduced.finite.tolist() == [True] * 3 + [False] * 3
        assert reduced.sums.examples.tolist() == [16] * 3 + [0] * 3
        assert state.step == 6
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("loss", LOSSES)
def test_virtual_shards_give_the_same_bits_on_any_number_of_devices(devices, k, loss):
    expected = train(1, 1, virtual_shards=4, loss=loss)
    got = train(devices, k, virtual_shards=4, loss=loss)
    assert_equal(got, expected)
    plain, _ = train(1, 1, loss=loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got[0], plain)


def test_virtual_shards_give_one_gpu_and_several_the_same_bits():
    def gpu(devices, k):
        return train(devices, k, virtual_shards=4, options=compiler.step_options("gpu", devices, 4))

    assert_equal(gpu(1, 6), gpu(4, 6))
    assert_equal(gpu(1, 6), gpu(1, 1))


def notebook_step_in_numpy(weights, velocities, images, labels, lr, momentum):
    """One step of the notebook's recipe in float64, derived by hand."""
    x0 = images.astype(np.float64)
    activations = [x0]
    for kernel, bias in weights[:-1]:
        activations.append(np.maximum(activations[-1] @ kernel + bias, 0))
    logits = activations[-1] @ weights[-1][0] + weights[-1][1]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = shifted / shifted.sum(axis=1, keepdims=True)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    classes = p.shape[1]
    targets = np.eye(classes)[labels]
    loss = -(targets * np.log(clipped)).sum() / classes / len(x0)
    inside = (p > 1e-7) & (p < 1 - 1e-7)
    dp = -(targets / clipped) * inside / classes / len(x0)
    delta = p * (dp - (dp * p).sum(axis=1, keepdims=True))
    new_weights, new_velocities = [], []
    for layer in range(len(weights) - 1, -1, -1):
        kernel, bias = weights[layer]
        gradients = (activations[layer].T @ delta, delta.sum(axis=0))
        delta = (delta @ kernel.T) * (activations[layer] > 0)
        v = [momentum * v + lr * g for v, g in zip(velocities[layer], gradients, strict=True)]
        new_velocities.insert(0, v)
        new_weights.insert(0, [kernel - v[0], bias - v[1]])
    return loss, new_weights, new_velocities


def test_a_notebook_step_agrees_with_numpy_in_float64():
    with jax.transfer_guard("allow"):
        weights = mlp.init(jax.random.PRNGKey(24), PIXELS, [24, 12], 10, "glorot_uniform")
        velocities = jax.tree.map(lambda w: np.asarray(w) * np.float32(0.01), weights)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (1, BATCH, PIXELS), np.uint8)
    labels = rng.integers(0, 10, (1, BATCH)).astype(np.uint8)
    mesh = make_mesh(2)
    objective = Objective("clipped_crossentropy", 10, 0.0, 1.0)
    program = step.make_train_step(objective, step.Optimizer(0.6, False, False), mesh, "shard_map")
    host = jax.device_get(weights)
    state = meshes.place(
        meshes.replicated(mesh),
        step.TrainState(host, step.sgd.State(velocities), np.zeros((), np.int32)),
    )
    batch = Superbatch(images, labels, np.ones_like(labels))
    feed = place_feed(mesh, batch, range(1), np.full(1, 0.01, np.float32))
    state, reduced = program(state, feed)

    def to64(tree):
        return [[np.asarray(a, np.float64) for a in layer] for layer in tree]

    loss, expected, expected_velocities = notebook_step_in_numpy(
        to64(host), to64(velocities), images[0], labels[0], 0.01, 0.6
    )
    state, reduced = jax.device_get((state, reduced))
    np.testing.assert_allclose(reduced.sums.loss[0] / BATCH, loss, rtol=1e-5)
    for got, want in (
        (state.weights, expected),
        (state.optim_state.velocities, expected_velocities),
    ):
        for layer, reference in zip(got, want, strict=True):
            for a, b in zip(layer, reference, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
