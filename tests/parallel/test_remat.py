"""model.remat: activations that are computed again take less memory, and change no result."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.steps import (
    BATCH,
    OBJECTIVE,
    PIXELS,
    UPDATE,
    assert_equal,
    batches,
    place_inputs,
)

from trainer.parallel import compiler, remat, step
from trainer.parallel import mesh as meshes
from trainer.tasks import mlp

DEPTH = 12
TASK = mlp.make(OBJECTIVE, (PIXELS,), [64] * DEPTH, "he_normal")


def compiled(parts, devices=1, k=1, batch=BATCH, shards=None):
    """The step of a deep network, and its state and inputs."""
    mesh = meshes.make_mesh(devices)
    options = compiler.xla_options("cpu", deterministic=True, remat=parts is not None)
    task = remat.in_parts(TASK, parts)
    program = step.make_train_step(task, UPDATE, mesh, "shard_map", shards, 1, xla_options=options)
    state = step.init_state(TASK, UPDATE, jax.random.PRNGKey(1), mesh)
    data, rates = batches(2, batch), np.full(2, 0.01, np.float32)
    inputs = [place_inputs(mesh, data, range(i, i + k), rates) for i in range(0, 2, k)]
    return program.lower(state, inputs[0]).compile(), state, inputs


def after(*how, **more):
    """The state after two steps."""
    program, state, inputs = compiled(*how, **more)
    for each in inputs:
        state, _ = program(state, each)
    return jax.device_get(state)


def test_a_deep_network_needs_less_memory_in_parts():
    def memory(parts):
        program, *_ = compiled(parts, batch=4096)
        return program.memory_analysis().temp_size_in_bytes

    assert memory(4) < 0.6 * memory(None)


def test_the_result_is_the_same():
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), after(4), after(None)
    )


def test_the_laws_hold():
    expected = after(3, shards=4)
    assert_equal(after(3, devices=2, k=2, shards=4), expected)


def test_a_program_is_cut_where_the_fewest_bytes_pass():
    def fwd(example, weights, key):
        for kernel in weights:
            example = (example @ kernel) @ kernel.T  # wide between the two
        return example

    task = TASK._replace(fwd=fwd)
    weights = [np.ones((4, 64), np.float32)] * 6
    jaxpr = jax.make_jaxpr(task.fwd)(np.ones(4, np.float32), weights, None).jaxpr
    cuts = remat._cuts(jaxpr, 3)
    passing = [jaxpr.eqns[cut - 1].outvars[0].aval.shape for cut in cuts]
    assert len(cuts) == 2
    assert passing == [(4,), (4,)]


@pytest.mark.parametrize("parts", [2, 50])
def test_any_program_can_be_cut(parts):
    def fwd(example, weights, key):
        x, y = example["x"] * weights["a"], example["y"]
        total, _ = jax.lax.scan(lambda sum_, row: (sum_ + row, row), x[0], x)
        noise = jax.random.normal(key, x.shape)
        return {"same": y, "constant": np.float32(3), "sum": total + (noise @ weights["b"])[0]}

    example = {"x": np.ones((3, 2), np.float32), "y": np.int32(7)}
    weights = {"a": np.float32(2), "b": np.ones((2, 2), np.float32)}
    task, key = TASK._replace(fwd=fwd), jax.random.PRNGKey(0)
    whole = fwd(example, weights, key)
    cut = remat.in_parts(task, parts)
    jax.tree.map(np.testing.assert_array_equal, cut.fwd(example, weights, key), whole)

    def total(fwd, weights):
        return jnp.sum(fwd(example, weights, key)["sum"])

    gradients = [jax.grad(partial(total, each))(weights) for each in (fwd, cut.fwd)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *gradients)
    assert cut.gradients is None
