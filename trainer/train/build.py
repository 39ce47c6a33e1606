"""Configuration + data set -> what training needs: the plan, the schedule, the programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from trainer.config.schema import Config, DataConfig
from trainer.data import mnist
from trainer.data.dataset import Dataset
from trainer.data.stream import Plan
from trainer.functional import schedules
from trainer.job.errors import ConfigError, DataError
from trainer.models import mlp
from trainer.parallel import compiler, step
from trainer.parallel import evaluation as eval_step
from trainer.parallel.evaluation import EvalStep
from trainer.tasks.classification import Objective
from trainer.tracking.terminal import Terminal


class Recipe(NamedTuple):
    """All that follows from the configuration and the data set alone."""

    plan: Plan  # of one step a dispatch, where train.steps_per_dispatch=auto
    schedule: schedules.Schedule
    init_weights: Callable[[jax.Array], mlp.Weights]
    objective: Objective
    train_step: step.TrainStep
    eval_step: EvalStep


def make(config: Config, dataset: Dataset, mesh: Mesh) -> Recipe:
    """Build the recipe of a run; nothing is computed yet.

    Raises:
        ConfigError: these devices do not have model.precision; too many steps.
        DataError: the images are of one colour.
    """
    steps_per_epoch = -(-len(dataset.train.labels) // config.train.global_batch_size)
    total_steps = config.train.epochs * steps_per_epoch
    if total_steps >= 2**31:
        told = f"train.epochs={config.train.epochs}: {total_steps:,} steps"
        raise ConfigError(f"{told} are more than an int32 counts: use fewer")
    optim = config.optim
    warmup_steps = round(optim.warmup_fraction * total_steps)
    pixels = dataset.train.images.shape[1]

    def init_weights(key: jax.Array) -> mlp.Weights:
        sizes, classes = config.model.hidden_sizes, config.data.num_classes
        return mlp.init(key, pixels, sizes, classes, config.model.kernel_initializer)

    mean, std = _pixel_statistics(config, dataset)
    precision, platform = config.model.precision, mesh.devices.flat[0].platform
    if precision != "float32" and platform == "cpu":
        raise ConfigError(
            f"model.precision={precision}: a CPU multiplies float32 only: leave it at float32"
        )
    compiler_options = compiler.options(platform, config.train.deterministic)
    objective = Objective(config.model.loss, config.data.num_classes, mean, std, precision)
    optimizer = step.Optimizer(optim.momentum, optim.nesterov, config.train.on_nonfinite == "skip")
    k = config.train.steps_per_dispatch
    return Recipe(
        Plan(steps_per_epoch, k if isinstance(k, int) else 1, total_steps),
        schedules.make(optim.schedule, optim.lr, warmup_steps, total_steps),
        init_weights,
        objective,
        step.make_train_step(
            objective,
            optimizer,
            mesh,
            config.parallel.method,
            config.parallel.virtual_shards,
            compiler.form(platform, mesh.size, config.parallel.virtual_shards),
            compiler_options,
        ),
        eval_step.make(objective, mesh, config.parallel.virtual_shards, compiler_options),
    )


def _pixel_statistics(config: Config, dataset: Dataset) -> tuple[float, float]:
    if config.model.pixels == "raw":
        return 0.0, 1.0
    mean, std = config.data.pixel_mean, config.data.pixel_std
    if mean is None or std is None:  # counted by value: no copy of the images in floating point
        parts = np.array_split(dataset.train.images, 64)
        counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
        values, weights = np.arange(256.0), counts / np.sum(counts)
        found = float(values @ weights)
        mean = found if mean is None else mean
        std = float(np.sqrt((values - found) ** 2 @ weights)) if std is None else std
        if std == 0:
            raise DataError(
                f"data set {dataset.name}: all pixels of the training images are {found:g}, so "
                "that nothing can be learnt from them",
                "give the right files, or data.pixel_mean and data.pixel_std",
            )
    return mean, std


def load_dataset(data: DataConfig, terminal: Terminal, stop: Callable[[], bool]) -> Dataset:
    """Load the data set that the options data.* name; see datasets.load for what it raises."""
    return mnist.load(
        data.name,
        root=Path(data.root) if data.root is not None else None,
        cache_dir=Path(data.cache_dir),
        mirrors=data.mirrors,
        sha256=data.sha256,
        download=data.download,
        offline_fallback=data.offline_fallback,
        timeout_seconds=data.timeout_seconds,
        num_classes=data.num_classes,
        progress=terminal.download,
        should_stop=stop,
        warn=terminal.warn,
    )
