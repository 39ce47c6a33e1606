"""The norms are those of the weights, and of the gradient that the training step applies."""

import jax
import numpy as np
import pytest

from trainer.dashboard import norms
from trainer.data.dataset import Superbatch
from trainer.optimizers.optimizer import Update, stochastic_gradient_descent
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.tasks import mlp

TASK = mlp.make(mlp.Objective("softmax_crossentropy", 10, 100.0, 50.0), (12,), [6], "he_normal")
UPDATE = Update(stochastic_gradient_descent(0.0, nesterov=False))


@pytest.mark.parametrize(("masked", "rows"), [(0, 8), (3, 8), (3, 3)])
def test_the_gradient_is_that_of_the_next_step(masked, rows):
    """With lr 1 and no momentum a step subtracts the gradient itself."""
    rng = np.random.default_rng(0)
    mask = np.ones(8, np.uint8)
    mask[8 - masked :] = 0
    images = rng.integers(0, 256, (8, 12), np.uint8)
    labels = rng.integers(0, 10, 8).astype(np.uint8)
    batch = Superbatch({"image": images, "label": labels}, mask)
    mesh = meshes.make_mesh(1)
    state = step.init_state(TASK, UPDATE, jax.random.PRNGKey(1), mesh)
    before = jax.tree.map(np.array, jax.device_get(state.weights))
    result = jax.device_get(norms.make(TASK, rows)(state.weights, jax.device_put(batch)))

    train_step = step.make_train_step(TASK, UPDATE, mesh, "pmap")
    whole, shared = meshes.replicated(mesh), meshes.batched(mesh)
    one = jax.tree.map(lambda part: part[None], batch)
    placed = meshes.place(shared, (one, np.zeros((1, 1), np.uint8)))
    lrs, steps = meshes.place(whole, (np.ones(1, np.float32), np.zeros(1, np.int32)))
    state, _ = train_step(state, step.DispatchInputs(*placed, lrs, steps))
    after = jax.device_get(state.weights)

    expected = {}
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        for name in ("kernel", "bias"):
            was, is_ = getattr(old, name), getattr(new, name)
            expected[f"weight_norm/{i}/{name}"] = np.linalg.norm(was)
            expected[f"gradient_norm/{i}/{name}"] = np.linalg.norm(was - is_)
    assert set(result) == set(expected)
    for name, norm in expected.items():
        np.testing.assert_allclose(result[name], norm, rtol=1e-4, atol=1e-7)
