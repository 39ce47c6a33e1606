"""The trainer's own parts, put together as its loop does, for what is measured without the loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax.sharding import Mesh

from trainer.config.compose import compose
from trainer.config.schema import Config
from trainer.data.dataset import Dataset, Split, Superbatch
from trainer.parallel import mesh as meshes
from trainer.parallel import step
from trainer.train import build
from trainer.train.build import Recipe
from trainer.train.feed import send, start

NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def configuration(*overrides: str) -> Config:
    """Return the options of `+experiment=mlp` with some of another value."""
    return compose(["+experiment=mlp", *overrides])[0].config


def load_arrays(folder: str) -> Dataset:
    """Return the data set that the worker `machine` has laid out, mapped into memory."""
    arrays = [np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in NAMES]
    return Dataset("arrays", Split(*arrays[:2]), Split(*arrays[2:]), "", (1, arrays[0].shape[1]))


def empty_dataset() -> Dataset:
    """Return a data set of MNIST's shape for what is compiled and never run."""
    zero = np.uint8(0)
    split = Split(np.broadcast_to(zero, (60_000, 784)), np.broadcast_to(zero, 60_000))
    return Dataset("empty", split, split, "", (1, 784))


def make(config: Config, dataset: Dataset, devices: int | None) -> tuple[Mesh, Recipe]:
    """Return the mesh and the programs that the trainer would use."""
    mesh = meshes.make_mesh(devices)
    return mesh, build.make(config, dataset, mesh)


def first_state(made: Recipe, mesh: Mesh) -> step.TrainState:
    """Return the state before the first step, on the devices."""
    return step.init_state(made.init_weights, jax.random.key(0), mesh)


def first_batches(dataset: Dataset, k: int, batch_size: int) -> Superbatch:
    """Return K full batches in file order, from the start again where the set is too small."""
    index = np.arange(k * batch_size).reshape(k, batch_size) % len(dataset.train.labels)
    images, labels = dataset.train.images[index], dataset.train.labels[index]
    return Superbatch(images, labels, np.ones(index.shape, np.uint8))


def feed(mesh: Mesh, batch: Superbatch) -> step.Feed:
    """Copy what a dispatch consumes to the devices, at a constant rate, and wait for it."""
    k = len(batch.labels)
    lrs = np.full(k, 0.01, np.float32)
    return jax.block_until_ready(start(mesh, send(mesh, lambda _: lrs, batch, 0), False))


def seconds_per_step(
    program: step.TrainStep, state: step.TrainState, feeds: step.Feed, dispatches: int
) -> npt.NDArray[np.float64]:
    """Run dispatches, each started while the one before is running, as the loop does.

    Args:
        program: the training step.
        state: before the first step; it is donated.
        feeds: of K steps from the first one on; all dispatches take the same batches.
        dispatches: that are timed, after one that is not.

    Returns the seconds of a step in each of them.
    """
    k = len(feeds.lrs)
    numbers = [
        jax.device_put(np.arange(i * k, (i + 1) * k, dtype=np.int32), feeds.steps.sharding)
        for i in range(dispatches + 1)
    ]
    ends: list[float] = []

    def end(reduced: step.Reduced) -> None:
        assert jax.device_get(reduced).finite.all()
        ends.append(time.perf_counter())

    pending: step.Reduced | None = None
    for steps in numbers:
        state, reduced = program(state, feeds._replace(steps=steps))
        if pending is not None:
            end(pending)
        pending = reduced
    end(reduced)
    assert int(state.step) == k * (dispatches + 1)  # the guard would have stood still otherwise
    return np.diff(ends) / k


def shapes(made: Recipe, mesh: Mesh, k: int, batch_size: int, pixels: int) -> tuple[Any, Any]:
    """Return the shapes of a state and of a dispatch's feed, for compiling ahead of time."""

    def described(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    state = jax.eval_shape(lambda key: step.new_state(made.init_weights, key), jax.random.key(0))
    size = (k, batch_size)
    batch = Superbatch(
        array(np.uint8, *size, pixels), array(np.uint8, *size), array(np.uint8, *size)
    )
    rows, whole = meshes.batched(mesh), meshes.replicated(mesh)
    batch, stop = described((batch, array(np.uint8, k, mesh.size)), rows)
    lrs, numbers = described((array(np.float32, k), array(np.int32, k)), whole)
    return described(state, whole), step.Feed(batch, stop, lrs, numbers)
