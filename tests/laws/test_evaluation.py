"""An evaluation counts every example exactly once, whatever the batch size or the devices."""

import jax
import numpy as np
import pytest

from trainer.parallel import evaluation
from trainer.parallel import mesh as meshes
from trainer.tasks import mlp

OBJECTIVE = mlp.Objective("softmax_crossentropy", 10, 100.0, 50.0)


def make_split(size):
    rng = np.random.default_rng(size)
    images = rng.integers(0, 256, (size, 12), np.uint8)
    return {"image": images, "label": rng.integers(0, 10, size).astype(np.uint8)}


def make_task(hidden):
    task = mlp.make(OBJECTIVE, (12,), [hidden], "he_normal")
    return task, jax.device_get(task.init(jax.random.PRNGKey(0)))


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_every_example_counts_once(devices, batch_size, monkeypatch):
    monkeypatch.setattr(evaluation, "BYTES_PER_DISPATCH", 12 * 64)  # several dispatches
    split = make_split(101)
    task, weights = make_task(8)
    logits = (split["image"].astype(np.float64) - 100) / 50
    for kernel, bias in weights[:-1]:
        logits = np.maximum(logits @ kernel.astype(np.float64) + bias, 0)
    logits = logits @ weights[-1].kernel.astype(np.float64) + weights[-1].bias
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(101), split["label"]]

    mesh = meshes.make_mesh(devices)
    placed = meshes.place(meshes.replicated(mesh), weights)
    with jax.transfer_guard("disallow"):
        program = evaluation.make_eval_step(task, mesh)
        evaluator = evaluation.Evaluator(program, task.metric_names, split, mesh, batch_size)
        result = evaluator(placed)
    assert result.examples == 101
    assert result.means["accuracy"] == (logits.argmax(axis=1) == split["label"]).mean()
    np.testing.assert_allclose(result.loss, losses.mean(), rtol=1e-5)
    np.testing.assert_array_equal(result.predictions["class"], logits.argmax(axis=1))
    best = np.exp(logits).max(axis=1) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(result.predictions["confidence"], best, rtol=1e-4)


def test_a_split_that_fits_is_sent_once():
    split, mesh = make_split(101), meshes.make_mesh(2)
    task, weights = make_task(8)
    placed = meshes.place(meshes.replicated(mesh), weights)
    program = evaluation.make_eval_step(task, mesh)
    evaluator = evaluation.Evaluator(program, task.metric_names, split, mesh, 64)
    first = evaluator(placed)
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        again = evaluator(placed)
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_with_virtual_shards_the_loss_has_the_same_bits_on_all_devices():
    split = make_split(1001)
    task, weights = make_task(64)
    result = set()
    for devices in (1, 2, 4, 8):
        mesh = meshes.make_mesh(devices)
        placed = meshes.place(meshes.replicated(mesh), weights)
        program = evaluation.make_eval_step(task, mesh, 8)
        evaluator = evaluation.Evaluator(program, task.metric_names, split, mesh, 100, 8)
        result.add(evaluator(placed).loss)
    assert len(result) == 1
