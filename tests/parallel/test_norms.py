"""The norms are those of the weights, and of the gradient that the training step applies."""

import jax
import numpy as np
import pytest

from trainer.data.dataset import Superbatch
from trainer.models import mlp
from trainer.parallel import mesh as meshes
from trainer.parallel import norms, step
from trainer.tasks.classification import Objective

OBJECTIVE = Objective("softmax_crossentropy", 10, 100.0, 50.0)


@pytest.mark.parametrize("masked", [0, 3])
def test_the_gradient_is_that_of_the_next_step(masked):
    """With lr 1 and no momentum a step subtracts the gradient itself."""
    rng = np.random.default_rng(0)
    mask = np.ones(8, np.uint8)
    mask[8 - masked :] = 0
    batch = Superbatch(
        rng.integers(0, 256, (8, 12), np.uint8), rng.integers(0, 10, 8).astype(np.uint8), mask
    )
    mesh = meshes.make_mesh(1)
    state = step.init_state(
        lambda key: mlp.init(key, 12, [6], 10, "he_normal"), jax.random.PRNGKey(1), mesh
    )
    before = jax.tree.map(np.array, jax.device_get(state.weights))
    result = jax.device_get(norms.make(OBJECTIVE)(state.weights, jax.device_put(batch)))

    train_step = step.make_train_step(OBJECTIVE, step.Optimizer(0.0, False, False), mesh, "pmap")
    whole, rows = meshes.replicated(mesh), meshes.batched(mesh)
    one = Superbatch(*(part[None] for part in batch))
    placed = meshes.place(rows, (one, np.zeros((1, 1), np.uint8)))
    lrs, steps = meshes.place(whole, (np.ones(1, np.float32), np.zeros(1, np.int32)))
    state, _ = train_step(state, step.DispatchInputs(*placed, lrs, steps))
    after = jax.device_get(state.weights)

    expected = {}
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        for name in ("kernel", "bias"):
            was, is_ = getattr(old, name), getattr(new, name)
            expected[f"weight_norm/layer/{i}/{name}"] = np.linalg.norm(was)
            expected[f"gradient_norm/layer/{i}/{name}"] = np.linalg.norm(was - is_)
    assert set(result) == set(expected)
    for name, norm in expected.items():
        np.testing.assert_allclose(result[name], norm, rtol=1e-4, atol=1e-7)
