"""The MLP and every task in examples/, with data and compiled steps for them."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from support.steps import place_inputs

from trainer.config import user_module
from trainer.config.schema import AugmentConfig
from trainer.data.dataset import Dataset, Superbatch
from trainer.data.stream import Plan, Superbatches
from trainer.optimizers.make import from_optax
from trainer.optimizers.optimizer import Update
from trainer.parallel import compiler, sharding, step
from trainer.parallel import mesh as meshes
from trainer.sources import load
from trainer.tasks import make, mlp, module
from trainer.tasks.task import Task

EXAMPLES = Path(__file__).parents[2] / "examples"
BATCH, STEPS, K, DEVICES = 16, 6, 3, 4

# As small as they can be: most of the time is XLA's, for compiling.
OPTIONS = {
    "cnn": {"channels": 4, "features": 8},
    "transformer": {"layers": 1, "features": 16, "heads": 2},
    "tabular": {"width": 8},
    "flax_module": {},
}
DATA_OPTIONS = {"transformer": {"size": 1200, "length": 8}}
OPTIMIZER = from_optax(optax.adamw, {"weight_decay": 0.01})  # SGD's are in the file beside


class Subject(NamedTuple):
    """A task, with data for it."""

    task: Task
    dataset: Dataset
    batches: Superbatch  # STEPS of them, the last short


def small_images() -> Dataset:
    rng = np.random.default_rng(0)

    def split(size):
        image = rng.integers(0, 256, (size, 8, 8), np.uint8)
        return {"image": image, "label": rng.integers(0, 10, size).astype(np.uint8)}

    return Dataset("noise", split(200), split(23))


@functools.cache
def subject(name) -> Subject:
    if name in ("mlp", "deep mlp", "augmented"):
        dataset = small_images()
        objective = mlp.Objective("softmax_crossentropy", 10, 33.3, 78.6)
        sizes = [64] * 16 if name == "deep mlp" else [24, 12]
        task = mlp.make(objective, (8, 8), sizes, "he_normal")
        if name == "augmented":
            changes = AugmentConfig(shift=2, crop=1, flip=True, cutout=3, mixup=0.4)
            task = make.augmented(task, changes)
    else:
        own = user_module.load("model.module", str(EXAMPLES / name / f"{name}.py"))
        dataset = small_images()
        if hasattr(own, "load"):
            given = user_module.options("", own, "DataOptions", DATA_OPTIONS.get(name, {}))
            dataset = load.checked(own.load(given), name)
        options = user_module.options("", own, "Options", OPTIONS[name])
        shapes = {
            field: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for field, x in dataset.train.items()
        }
        task = module.make(own, options, shapes)
    stream = Superbatches(
        {field: x[: STEPS * BATCH - 3] for field, x in dataset.train.items()},
        plan=Plan(STEPS, STEPS, STEPS),
        global_batch_size=BATCH,
        rows=slice(0, BATCH),
        seed=1,
        first_step=0,
        needs=task.needs,
    )
    return Subject(task, dataset, stream[0])


@functools.cache
def program(
    name,
    devices,
    k,
    virtual_shards=None,
    shard_state="none",
    shards=None,
    accumulate=1,
    remat_parts=None,
    reduce_dtype="float32",
    **update,
):
    """The mesh, the compiled program of K steps, and the shardings of its state."""
    mesh, task = meshes.make_mesh(devices, shards=shards), subject(name).task
    made = step.make_train_step(
        task,
        Update(OPTIMIZER, **update),
        mesh,
        "shard_map",
        virtual_shards,
        accumulate,
        xla_options=compiler.xla_options("cpu", deterministic=True, remat=remat_parts is not None),
        shard_state=shard_state,
        remat_parts=remat_parts,
        reduce_dtype=reduce_dtype,
    )
    inputs = place_inputs(mesh, subject(name).batches, range(k), np.ones(STEPS, np.float32))
    state = first_state(name, average="ema_decay" in update)
    shardings = sharding.of_state(state, mesh, shard_state)
    return mesh, made.lower(meshes.place(shardings, state), inputs).compile(), shardings


@functools.cache
def first_weights(name):
    with jax.transfer_guard("allow"):
        return jax.device_get(jax.jit(subject(name).task.init)(jax.random.PRNGKey(1)))


@functools.cache
def first_state(name, *, average=False):
    weights = first_weights(name)
    with jax.transfer_guard("allow"):
        optim_state = jax.device_get(OPTIMIZER.init(weights))
    return step.TrainState(
        weights, optim_state, np.zeros((), np.int32), weights if average else None
    )


def run(name, devices, k=1, steps=range(STEPS), state=None, **how):
    """Do some steps, K a dispatch; return the state and the metrics, on the host."""
    mesh, train_step, shardings = program(name, devices, k, **how)
    if state is None:
        state = first_state(name, average="ema_decay" in how)
    state = meshes.place(shardings, state)
    lrs, seen = np.full(STEPS, 1e-3, np.float32), []
    for lo in range(steps.start, steps.stop, k):
        inputs = place_inputs(mesh, subject(name).batches, range(lo, lo + k), lrs)
        state, metrics = train_step(state, inputs)
        seen.append(jax.device_get(metrics.packed))
    return jax.device_get(state), np.concatenate(seen)


@functools.cache
def six_steps(name):
    """The states before each of six steps on one device, and after them."""
    states = [first_state(name)]
    for i in range(STEPS):
        states.append(run(name, 1, steps=range(i, i + 1), state=states[-1])[0])
    return states
