"""The training step: one all-reduce, votes, steps that are not finite, the notebook's numbers."""

import jax
import numpy as np
import pytest
from support import steps

from trainer.data.dataset import Superbatch
from trainer.optimizers.optimizer import State, Update, stochastic_gradient_descent
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.parallel.compiler import CPU_STEP, GPU_STEP
from trainer.parallel.mesh import make_mesh
from trainer.tasks.mlp import Objective


@pytest.fixture(autouse=True)
def no_implicit_transfers():
    with jax.transfer_guard("disallow"):
        yield


@pytest.mark.parametrize(("devices", "method"), [(8, "shard_map"), (4, "pmap")])
def test_a_step_holds_exactly_one_all_reduce_of_the_gradients_and_the_metrics(devices, method):
    mesh, program = steps.programs(devices, method)
    state = steps.place(mesh, steps.first_state())
    inputs = steps.place_inputs(mesh, steps.batches(4), range(4), np.ones(4, np.float32))
    compiled = program.lower(state, inputs).compile().as_text()
    assert compiled.count(" all-reduce(") + compiled.count(" all-reduce-start(") == 1
    for other in ("all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert f" {other}(" not in compiled


def test_the_state_is_donated():
    mesh, program = steps.programs(2)
    state = steps.place(mesh, steps.first_state())
    program(state, steps.place_inputs(mesh, steps.batches(1), range(1), np.ones(1, np.float32)))
    assert state.weights[0].kernel.is_deleted()


def test_any_stop_vote_is_seen_by_all():
    assert (steps.train(4, 3, stop=0)[1].stop_votes == 0).all()
    assert (steps.train(4, 3, stop=1)[1].stop_votes == 4).all()


def test_a_short_batch_weighs_by_its_examples():
    _, metrics = steps.train(1, 6)
    assert metrics.sums[:, -1].tolist() == [16] * 5 + [13]


def exploding(bad):
    """Rates after which the loss of step `bad` overflows."""
    lrs = np.full(8, 0.01, np.float32)
    lrs[bad - 1] = 1e30
    return lrs


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("bad", [1, 4, 7])  # first, last and in the middle of four
@pytest.mark.parametrize(
    "way", [{"method": "shard_map"}, {"method": "pmap"}, {"options": GPU_STEP}]
)
def test_a_step_that_is_not_finite_and_all_after_it_change_nothing(bad, k, way):
    state, metrics = steps.train(2, k, 8, lrs=exploding(bad), **way)
    assert metrics.finite.tolist() == [True] * bad + [False] * (8 - bad)
    assert state.step == bad
    mesh, program = steps.programs(2, **way)
    good = steps.place(mesh, steps.first_state())
    for i in range(bad):
        good, _ = program(
            good, steps.place_inputs(mesh, steps.batches(8), range(i, i + 1), exploding(bad))
        )
    steps.assert_equal(state, jax.device_get(good))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("options", [CPU_STEP, GPU_STEP])
def test_an_update_that_is_not_finite_can_be_skipped(options):
    for k in (1, 6):
        state, metrics = steps.train(1, k, 6, skip=True, lrs=exploding(3)[:6], options=options)
        assert metrics.finite.tolist() == [True] * 3 + [False] * 3
        assert metrics.sums[:, -1].tolist() == [16] * 3 + [0] * 3
        assert state.step == 6
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


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
    task = steps.make_task(Objective("clipped_crossentropy", 10, 0.0, 1.0), "glorot_uniform")
    with jax.transfer_guard("allow"):
        weights = task.init(jax.random.PRNGKey(24))
        velocities = jax.tree.map(lambda w: np.asarray(w) * np.float32(0.01), weights)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (1, steps.BATCH, steps.PIXELS), np.uint8)
    labels = rng.integers(0, 10, (1, steps.BATCH)).astype(np.uint8)
    mesh = make_mesh(2)
    update = Update(stochastic_gradient_descent(0.6, nesterov=False))
    program = step.make_train_step(task, update, mesh, "shard_map")
    host = jax.device_get(weights)
    state = meshes.place(
        meshes.replicated(mesh),
        step.TrainState(host, State(velocities), np.zeros((), np.int32)),
    )
    batch = Superbatch({"image": images, "label": labels}, np.ones_like(labels))
    inputs = steps.place_inputs(mesh, batch, range(1), np.full(1, 0.01, np.float32))
    state, metrics = program(state, inputs)

    def to64(tree):
        return [[np.asarray(a, np.float64) for a in layer] for layer in tree]

    loss, expected, expected_velocities = notebook_step_in_numpy(
        to64(host), to64(velocities), images[0], labels[0], 0.01, 0.6
    )
    state, metrics = jax.device_get((state, metrics))
    np.testing.assert_allclose(metrics.sums[0, 0] / steps.BATCH, loss, rtol=1e-5)
    for got, want in (
        (state.weights, expected),
        (state.optim_state.velocities, expected_velocities),
    ):
        for layer, reference in zip(got, want, strict=True):
            for a, b in zip(layer, reference, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
