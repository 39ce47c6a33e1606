"""The programs of a run, and what else the options say about its steps. Nothing is computed yet."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jax.sharding import Mesh

from trainer.checkpoint import transfer
from trainer.config.schema import Config, OptimConfig
from trainer.data.dataset import Dataset, size
from trainer.data.stream import Plan, Superbatches
from trainer.job.errors import ConfigError
from trainer.optimizers import elementwise, schedules
from trainer.optimizers import make as optimizers
from trainer.optimizers.optimizer import Update, without
from trainer.parallel import compiler, evaluation, step
from trainer.tasks import make as tasks
from trainer.tasks.task import Task


class Programs(NamedTuple):
    """What the configuration, the data set and the devices determine."""

    plan: Plan  # with one step a dispatch, for train.steps_per_dispatch=auto
    schedule_of: Callable[[int], schedules.Schedule]  # of a training of so many epochs
    task: Task
    record: dict[str, Any]  # what a checkpoint keeps to make the task again
    update: Update
    train_step: step.TrainStep
    eval_step: evaluation.EvalStep


def make_programs(config: Config, dataset: Dataset, mesh: Mesh) -> Programs:
    """Make the programs of a run; each is compiled when it is first called.

    Raises:
        ConfigError: these devices do not have model.precision; too many steps; the user's module
            is wrong.
        DataError: all pixels of the training images are equal.
    """
    model, optim, train = config.model, config.optim, config.train
    whole = -(-size(dataset.train) // train.global_batch_size)
    steps_per_epoch = min(whole, train.limit_steps or whole, train.overfit_batches or whole)
    total_steps = min(train.epochs * steps_per_epoch, train.max_steps or 2**31)
    if total_steps >= 2**31:
        message = f"train.epochs={train.epochs}: {total_steps:,} steps"
        raise ConfigError(f"{message} are more than an int32 counts", "use fewer epochs")
    k = train.steps_per_dispatch
    epochs_per_span = math.gcd(train.eval_every_epochs, config.checkpoint.every_epochs or 0)
    plan = Plan(steps_per_epoch, k if isinstance(k, int) else 1, total_steps, epochs_per_span)

    platform, shards = mesh.devices.flat[0].platform, config.parallel.virtual_shards
    if (cannot := compiler.cannot_multiply(platform, model.precision)) is not None:
        raise ConfigError(f"model.precision={model.precision}: {cannot}", "leave it at float32")
    task, record = tasks.make(model, config.data, dataset)
    task = tasks.augmented(task, config.augment)
    weights = task.shapes
    optimizer = optimizers.make(optim.name, optim.momentum, optim.nesterov, optim.options, weights)
    fixed = transfer.frozen(weights, config.init.freeze)
    if fixed is not None:
        optimizer = without(optimizer, fixed)
    shard_state = config.parallel.shard_state
    if shard_state != "none" and (mixes := elementwise.first_mixing(optimizer, weights)):
        message = f"parallel.shard_state={shard_state}: optim.name={optim.name} mixes the elements"
        raise ConfigError(
            f"{message} of an array ({mixes}), and a device has a part of each",
            "use an optimizer like sgd, adamw or lion, or parallel.shard_state=none",
        )
    skip, log_norm = train.on_nonfinite == "skip", train.log_gradient_norm
    update = Update(optimizer, optim.clip_norm, skip, fixed, log_norm, config.ema.decay)
    xla_options = partial(compiler.xla_options, platform, train.deterministic)
    train_step = step.make_train_step(
        task,
        update,
        mesh,
        config.parallel.method,
        shards,
        train.accumulate,
        compiler.step_options(platform, mesh.size, shards),
        xla_options(model.remat is not None, shard_state != "none"),
        shard_state,
        config.parallel.reduce_dtype,
        model.remat,
    )
    options = xla_options(shard_state == "all")
    return Programs(
        plan,
        partial(_schedule, optim, steps_per_epoch),
        task,
        record,
        update,
        train_step,
        evaluation.make_eval_step(task, mesh, shards, options, shard_state),
    )


def superbatches(
    config: Config, dataset: Dataset, task: Task, rows: slice, first_step: int, plan: Plan
) -> Superbatches:
    """Return the batches that a run trains on from `first_step` on, `rows` of each."""
    return Superbatches(
        dataset.train,
        plan=plan,
        global_batch_size=config.train.global_batch_size,
        rows=rows,
        seed=config.run.seed if config.data.shuffle else None,
        first_step=first_step,
        needs=task.needs,
        mixture=dataset.mixture,
    )


def evaluators(
    config: Config, dataset: Dataset, task: Task, eval_step: evaluation.EvalStep, mesh: Mesh
) -> dict[str, evaluation.Evaluator]:
    """Return what evaluates each split but that of training, by name."""
    names, rows = task.metric_names, config.train.eval_batch_size
    shards = config.parallel.virtual_shards
    return {
        split: evaluation.Evaluator(eval_step, names, examples, mesh, rows, shards)
        for split, examples in dataset.splits.items()
        if split != "train"
    }


def rows_at_once(config: Config, mesh: Mesh) -> int:
    """Return of how many examples a device computes the gradients at once."""
    parts = (config.parallel.virtual_shards or mesh.size) * config.train.accumulate
    return config.train.global_batch_size // parts


def _schedule(optim: OptimConfig, steps_per_epoch: int, epochs: int) -> schedules.Schedule:
    """Return the learning rates of a training of so many epochs."""
    total, warmup = epochs * steps_per_epoch, optim.warmup_steps
    spans = schedules.Spans(
        total,
        round(optim.warmup_fraction * total) if warmup is None else warmup,
        round((optim.decay_fraction or 0.0) * total),
        tuple(round(epoch * steps_per_epoch) for epoch in optim.boundaries or ()),
    )
    final = optim.final_fraction or 0.0
    return schedules.make(optim.schedule, optim.lr, spans, final, optim.factors or ())
