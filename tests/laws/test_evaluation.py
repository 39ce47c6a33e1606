"""An evaluation counts every example exactly once, whatever the batch size or the devices."""

import jax
import numpy as np
import pytest

from trainer.parallel import compiler, evaluation, sharding
from trainer.parallel import mesh as meshes
from trainer.tasks import mlp

OBJECTIVE = mlp.Objective("softmax_crossentropy", 10, 100.0, 50.0)
TASK = mlp.make(OBJECTIVE, (4, 3), [8], "he_normal")


def make_split(size):
    rng = np.random.default_rng(size)
    return {
        "image": rng.integers(0, 256, (size, 4, 3), np.uint8),
        "label": rng.integers(0, 10, size).astype(np.uint8),
    }


def evaluator(task, split, mesh, batch_size, shards=None):
    program = evaluation.make_eval_step(task, mesh, shards)
    return evaluation.Evaluator(program, task.metric_names, split, mesh, batch_size, shards)


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_every_example_counts_once(devices, batch_size, monkeypatch):
    monkeypatch.setattr(evaluation, "BYTES_TO_KEEP", 12 * 64)
    monkeypatch.setattr(evaluation, "BYTES_PER_DISPATCH", 12 * 64)  # several dispatches
    split = make_split(101)
    weights = jax.device_get(TASK.init(jax.random.PRNGKey(0)))
    logits = (split["image"].reshape(101, 12).astype(np.float64) - 100) / 50
    for kernel, bias in weights[:-1]:
        logits = np.maximum(logits @ kernel.astype(np.float64) + bias, 0)
    logits = logits @ weights[-1].kernel.astype(np.float64) + weights[-1].bias
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(101), split["label"]]

    mesh = meshes.make_mesh(devices)
    placed = meshes.place(meshes.replicated(mesh), weights)
    with jax.transfer_guard("disallow"):
        result = evaluator(TASK, split, mesh, batch_size)(placed)
    assert result.examples == 101
    assert result.means["accuracy"] == (logits.argmax(axis=1) == split["label"]).mean()
    np.testing.assert_allclose(result.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_array_equal(result.predictions["class"], logits.argmax(axis=1))
    best = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(result.predictions["confidence"], best, rtol=1e-4)


def test_a_split_that_fits_is_sent_once():
    split, mesh = make_split(101), meshes.make_mesh(2)
    weights = TASK.init(jax.random.PRNGKey(0))
    placed = meshes.place(meshes.replicated(mesh), jax.device_get(weights))
    evaluate = evaluator(TASK, split, mesh, 64)
    first = evaluate(placed)
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        again = evaluate(placed)
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_with_virtual_shards_the_loss_has_the_same_bits_on_all_devices():
    split = make_split(1001)
    task = mlp.make(OBJECTIVE, (4, 3), [64], "he_normal")
    weights = jax.device_get(task.init(jax.random.PRNGKey(0)))
    results = set()
    for devices in (1, 2, 4, 8):
        mesh = meshes.make_mesh(devices)
        placed = meshes.place(meshes.replicated(mesh), weights)
        results.add(evaluator(task, split, mesh, 100, 8)(placed).loss)
    assert len(results) == 1


def shared_evaluator(task, weights, split, devices, shards, virtual_shards):
    mesh = meshes.make_mesh(devices, shards=shards)
    options = compiler.xla_options("cpu", deterministic=False, remat=True)
    program = evaluation.make_eval_step(task, mesh, virtual_shards, options, "all")
    shardings = sharding.of_weights(weights, mesh, "all")
    evaluate = evaluation.Evaluator(program, task.metric_names, split, mesh, 100, virtual_shards)
    return program, shardings, evaluate


@pytest.mark.parametrize("virtual_shards", [None, 8])
@pytest.mark.parametrize(("devices", "shards"), [(8, None), (4, 2)])
def test_weights_that_devices_share_are_evaluated_as_whole_ones(devices, shards, virtual_shards):
    split, task = make_split(1001), mlp.make(OBJECTIVE, (4, 3), [64, 64], "he_normal")
    weights = jax.device_get(task.init(jax.random.PRNGKey(0)))
    mesh = meshes.make_mesh(1)
    placed = meshes.place(meshes.replicated(mesh), weights)
    expected = evaluator(task, split, mesh, 100, virtual_shards)(placed)
    _, shardings, evaluate = shared_evaluator(task, weights, split, devices, shards, virtual_shards)
    assert not all(each.is_fully_replicated for each in jax.tree.leaves(shardings))
    result = evaluate(meshes.place(shardings, weights))
    if virtual_shards is not None:
        assert result.means == expected.means
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    np.testing.assert_array_equal(result.predictions["class"], expected.predictions["class"])


def test_no_device_holds_all_weights_at_once_to_evaluate_them():
    task, split = mlp.make(OBJECTIVE, (4, 3), [256] * 16, "he_normal"), make_split(64)
    weights = task.shapes
    program, shardings, evaluate = shared_evaluator(task, weights, split, 8, None, None)
    placed = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        weights,
        shardings,
    )
    memory = program.lower(placed, evaluate._batch(0)).compile().memory_analysis()
    whole = sum(x.size * 4 for x in jax.tree.leaves(weights))
    assert memory.temp_size_in_bytes < whole / 4
