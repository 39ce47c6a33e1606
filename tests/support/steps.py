"""A small training step with data for it, on any of the test process's devices."""

import functools

import jax
import numpy as np

from trainer.data.dataset import Superbatch
from trainer.optimizers.optimizer import Update, stochastic_gradient_descent
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.parallel.compiler import CPU_STEP
from trainer.tasks import mlp

OBJECTIVE = mlp.Objective("softmax_crossentropy", 10, 33.3, 78.6)
UPDATE = Update(stochastic_gradient_descent(0.9, nesterov=True))
PIXELS, BATCH = 20, 16


def make_task(objective=OBJECTIVE, initializer="he_normal"):
    return mlp.make(objective, (PIXELS,), [24, 12], initializer)


def batches(steps, batch=BATCH, short=3) -> Superbatch:
    """Random batches, of which the last is short."""
    rng = np.random.default_rng(5)
    mask = np.ones((steps, batch), np.uint8)
    mask[-1, batch - short :] = 0
    images = rng.integers(0, 256, (steps, batch, PIXELS), np.uint8)
    labels = rng.integers(0, 10, (steps, batch)).astype(np.uint8)
    return Superbatch({"image": images, "label": labels}, mask)


USUAL = {
    "virtual_shards": None,
    "skip": False,
    "loss": OBJECTIVE.loss,
    "options": CPU_STEP,
    "accumulate": 1,
    "precision": "float32",
}


def programs(devices, method="shard_map", **how):
    """The mesh and the training step, compiled once for all tests."""
    return _programs(devices, method, **dict(sorted({**USUAL, **how}.items())))


@functools.cache
def _programs(
    devices, method, *, virtual_shards, skip, loss, options, accumulate, precision, **update
):
    mesh = meshes.make_mesh(devices)
    rule = UPDATE._replace(skip_nonfinite=skip, **update)
    task = make_task(OBJECTIVE._replace(loss=loss, precision=precision))
    made = step.make_train_step(task, rule, mesh, method, virtual_shards, accumulate, options)
    return mesh, made


@functools.cache
def first_state():
    with jax.transfer_guard("allow"):
        key, mesh = jax.random.PRNGKey(1), meshes.make_mesh(1)
        return jax.device_get(step.init_state(make_task(), UPDATE, key, mesh))


def place(mesh, state):
    """Copy a state to every device of a mesh."""
    return meshes.place(meshes.replicated(mesh), state)


def place_inputs(mesh, data, steps, lrs, stop=0):
    """Copy the inputs of some steps to a mesh."""
    part = jax.tree.map(lambda x: x[steps.start : steps.stop], data)
    votes = np.full((len(steps), mesh.size), stop, np.uint8)
    numbers = np.array(steps, np.int32)
    values = (lrs[steps.start : steps.stop], numbers)
    if data.index is not None:  # of a task that draws random numbers
        values += (np.zeros(len(steps), np.uint32),)
    return step.DispatchInputs(
        *meshes.place(meshes.batched(mesh), (part, votes)),
        *meshes.place(meshes.replicated(mesh), values),
    )


def train(
    devices, k, steps=6, method="shard_map", state=None, stop=0, lrs=None, batch=BATCH, **how
):
    """Train some steps, K a dispatch; return the state and the metrics, on the host."""
    mesh, program = programs(devices, method, **how)
    state = (state or first_state())._replace(step=np.zeros((), np.int32))
    if how.get("ema_decay") and state.ema is None:
        state = state._replace(ema=state.weights)
    state = place(mesh, state)
    data, seen = batches(steps, batch), []
    lrs = np.linspace(0.01, 0.1, steps, dtype=np.float32) if lrs is None else lrs
    for lo in range(0, steps, k):
        inputs = place_inputs(mesh, data, range(lo, min(lo + k, steps)), lrs, stop)
        state, metrics = program(state, inputs)
        seen.append(jax.device_get(metrics))
    return jax.device_get(state), jax.tree.map(lambda *x: np.concatenate(x), *seen)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
