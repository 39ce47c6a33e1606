"""Everything before the first step, in order: data, programs, state, files, stream."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import Mesh

from trainer.checkpoint import checksums, shards, transfer
from trainer.checkpoint.shared import SharedCheckpoints
from trainer.checkpoint.store import Best, Checkpoints
from trainer.config import user_module
from trainer.config.fingerprint import differences, fingerprint
from trainer.config.schema import Config, OptimConfig, as_json
from trainer.dashboard.dashboard import Dashboard
from trainer.data.dataset import Dataset, first, size
from trainer.data.stream import Plan, Superbatches, iterate
from trainer.distributed import collectives
from trainer.distributed.initialize import ProcessContext
from trainer.job import directory as run_directory
from trainer.job.errors import ConfigError, DataError, Preempted, writing
from trainer.job.signals import StopRequest
from trainer.optimizers import elementwise, schedules
from trainer.optimizers import optimizer as optimizers
from trainer.parallel import compiler, evaluation, sharding, step
from trainer.parallel.compiler import CompiledFunction
from trainer.sources import load as data_sets
from trainer.tasks import make as tasks
from trainer.tasks.task import Task
from trainer.tracking import environment, summaries, summary
from trainer.tracking.goodput import Ledger, PhaseTimer
from trainer.tracking.profile import Profile
from trainer.tracking.tensorboard import TENSORBOARD, Tracker
from trainer.tracking.terminal import Terminal
from trainer.train import resume, steps_per_dispatch
from trainer.train.feed import Feeder
from trainer.train.progress import Patience, Progress
from trainer.train.writer import Writer

T = TypeVar("T")


class Run:
    """Everything the training loop works with; it changes `state` and `steps_done` alone."""

    # What writes to the run directory; None on all processes but process 0. (Of a sharded state,
    # every process has a writer.)
    writer: Writer | None
    ledger: Ledger | None
    dashboard: Dashboard | None

    def __init__(
        self,
        config: Config,
        process: ProcessContext,
        record: Mapping[str, str],
        stop: StopRequest,
        terminal: Terminal,
        timer: PhaseTimer,
        report: summary.Report,
        stack: ExitStack,
    ) -> None:
        """Load the data, restore or initialize the state, open the files of the run.

        Args:
            config: every option.
            process: this process among those of the run.
            record: file name -> text, kept in .hydra/ of the run directory.
            stop: whether this process was asked to stop.
            terminal: shows progress and warnings.
            timer: counts the time of each phase.
            report: gets what becomes known about the run, for summary.json.
            stack: closes what is opened here.

        Raises:
            Preempted: asked to stop before training began.
            ConfigError: the run directory holds a run with another fingerprint.
            DataError: no data, not the same on all processes, or no intact checkpoint.
            ReadError, SaveError: the storage does not let the run directory be read or written.
        """
        self.config, self.process, self.stop = config, process, stop
        self.terminal, self.timer, self.report = terminal, timer, report
        mesh, warn = process.mesh, terminal.warn

        # The data. Every process holds all of it, and gathers its own rows of any batch.
        def poll() -> None:
            timer.alive()  # for the watchdog
            stop.check("during the download of the data set")

        def load() -> tuple[Dataset, Programs]:
            dataset = data_sets.load(config.data, progress=terminal.download, poll=poll, warn=warn)
            return dataset, make_programs(config, dataset, mesh)

        with timer.phase("startup"):
            collectives.share(partial(stop.check, "before the data was loaded"))
            dataset, programs = collectives.together(load)
            _check_same_everywhere(dataset)
        report["dataset"] = summary.describe(dataset)
        if config.data.name == "mnist" != dataset.name:
            report["fallback_from"] = "mnist"
        if (few := config.train.overfit_batches) is not None:
            few *= config.train.global_batch_size
            dataset = dataset._replace(train=first(dataset.train, few), mixture=None)
        self.task = task = programs.task
        best = best_of(config.checkpoint.best, task, "checkpoint.best")
        report["best"] = f"{best.metric}:{'max' if best.largest else 'min'}"
        stop_early = config.train.stop_early
        watched = best_of(
            stop_early.metric or config.checkpoint.best, task, "train.stop_early.metric"
        )
        if stop_early.patience is not None and dataset.validation is None:
            message = (
                f"train.stop_early.patience={stop_early.patience}: there is no validation split"
            )
            raise ConfigError(message, "use data.validation_fraction above 0, or null here")

        # The state: that of the newest intact checkpoint, or a new one.
        folder = process.directory / run_directory.CHECKPOINTS

        def open_checkpoints() -> Checkpoints:
            checkpoints = Checkpoints(
                folder,
                keep_last=config.checkpoint.keep_last,
                keep_best=config.checkpoint.keep_best,
                best=best,
                warn=warn,
                shape=checksums.RECORD,
            )
            return stack.enter_context(checkpoints)

        key = jax.random.PRNGKey(config.run.seed)
        update = programs.update
        template = jax.eval_shape(partial(step.new_state, task, update), key)
        shard_state = config.parallel.shard_state
        shardings = sharding.of_state(template, mesh, shard_state)
        identity = fingerprint(config, report["dataset"])
        with timer.phase("startup"):
            collectives.share(partial(stop.check, "before the state was restored"))
            checkpoints = _on_chief(process, open_checkpoints)
        with timer.phase("restore"):
            restored = resume.restore(
                checkpoints,
                folder,
                template,
                shardings,
                identity,
                programs.plan,
                programs.schedule_of,
            )
        with timer.phase("startup"):
            if restored is None:
                state = step.init_state(task, update, key, mesh, shard_state)
                if config.init.run is not None:
                    weights = state.weights
                    del state  # its memory is needed
                    weights = resume.other_weights(config.init, weights, process, terminal)
                    make = partial(step.state_of, update=update)
                    state = jax.jit(make, out_shardings=shardings)(weights)
                self.state = state
            else:
                self.state = restored.state
                terminal.note(f"resuming after step {restored.step:,}")
        resume_step, saved = (restored.step, restored.record) if restored else (None, {})
        report["resumed_from_step"] = resume_step
        self.steps_done = resume_step or 0

        # The files.
        saves: Checkpoints | SharedCheckpoints | None = checkpoints
        if shards.is_sharded(shardings):
            values, timeout = collectives.KeyValues, config.cluster.hang_timeout_seconds
            saves = SharedCheckpoints(folder, checkpoints, values, timeout)

        def open_writer(
            record: checksums.Record, flush: Callable[[], None], warn: Callable[[str], None]
        ) -> Writer:
            assert saves is not None
            limit, state = config.checkpoint.max_failed_saves, self.state
            writer = Writer(
                saves, state, record, flush=flush, max_failed_saves=limit, timer=timer, warn=warn
            )
            return stack.enter_context(writer)

        def open_files() -> tuple[Tracker, Ledger, Writer]:
            assert checkpoints is not None
            devices = [f"{device.platform} {device.device_kind}" for device in mesh.devices.flat]
            facts = environment.collect(devices, jax.process_count())
            if saved and (changed := differences(saved["versions"], facts["versions"])):
                warn(
                    f"the run resumes with other versions ({', '.join(changed)}): its last digits "
                    "may differ from those of an uninterrupted run"
                )
            if saved and saved.get("module_sha256") != programs.record.get("module_sha256"):
                warn(f"model.module={config.model.module} has changed since the last checkpoint")
            run_directory.describe(process.directory, record, facts)
            tracker = stack.enter_context(Tracker(process.directory, resume_step, warn))
            summaries.write_start(
                tracker, config, dataset.name, saved.get("config"), record["config.yaml"], facts
            )
            goodput = process.directory / "goodput.json"
            ledger = Ledger(goodput, timer, self.steps_done, tracker.reached, warn)
            options, root, own = as_json(config), config.data.root, config.data.module
            kept = {  # in every checkpoint, beside the arrays
                "meaning": identity,
                **programs.record,
                "config": options,
                "config_sha256": checksums.of_json(options),
                # For readers in another folder, from where a relative path leads elsewhere.
                "data_root": root and str(Path(root).expanduser().absolute()),
                "data_module": own and str(user_module.file_of("data.module", own)),
                "versions": facts["versions"],
            }
            writer = open_writer(kept, tracker.flush, warn)

            def close(kind: type[BaseException] | None, *_: object) -> None:
                ledger.write(report["steps"], now=True)
                report["goodput"] = ledger.totals()
                if not (kind and issubclass(kind, Preempted)):  # the run has not ended
                    summaries.write_end(tracker, failed=kind is not None)

            stack.push(close)
            return tracker, ledger, writer

        opened = _on_chief(process, open_files)
        tracker, self.ledger, self.writer = opened or (None, None, None)
        if opened is None and saves is not None:  # process 0 flushes and warns for all
            self.writer = open_writer({}, lambda: None, lambda _: None)

        # K, the steps of a dispatch, is measured with the program and the state of this run.
        plan = programs.plan
        self.train_step = CompiledFunction(programs.train_step, timer)
        if config.train.steps_per_dispatch == "auto" and self.steps_done < plan.total_steps:
            with timer.phase("startup"):
                k = steps_per_dispatch.choose(
                    self.train_step,
                    self.state,
                    mesh=mesh,
                    first_step=self.steps_done,
                    plan=plan,
                    local_batch=process.rows.stop - process.rows.start,
                    examples=dataset.train,
                    needs=task.needs,
                    alive=timer.alive,
                )
            plan = plan._replace(steps_per_dispatch=k)
        self.plan = plan
        report["steps_per_dispatch"] = plan.steps_per_dispatch

        schedule = programs.schedule_of(config.train.epochs)

        # The stream of batches. Batch i depends on nothing but the seed and i, so that a resumed
        # run continues with the batch after the last one that its checkpoint has seen.
        self.batches = Superbatches(
            dataset.train,
            plan=plan,
            global_batch_size=config.train.global_batch_size,
            rows=process.rows,
            seed=config.run.seed if config.data.shuffle else None,
            first_step=self.steps_done,
            needs=task.needs,
            mixture=dataset.mixture,
        )
        stream = iterate(self.batches)
        stack.callback(stream.close)
        self.feeder = Feeder(mesh, schedule, stream, self.steps_done, config.run.seed, timer)
        # Training is watched, and what is selected is selected, by the validation split.
        self.watched = "test" if dataset.validation is None else "validation"
        eval_step = CompiledFunction(programs.eval_step, timer)
        self.evaluators = {
            split: evaluation.Evaluator(
                eval_step,
                task.metric_names,
                examples,
                mesh,
                config.train.eval_batch_size,
                config.parallel.virtual_shards,
            )
            for split, examples in dataset.splits.items()
            if split != "train"
        }

        # What shows how training goes.
        self.patience = Patience(
            watched,
            stop_early.patience,
            stop_early.min_delta,
            saved.get("progress", {}).get("patience"),
        )
        logged = ("gradient_norm",) if update.log_norm else ()
        self.progress = Progress(
            config.train.log_every_steps,
            (*task.metric_names, *logged),
            schedule,
            tracker,
            terminal,
            saved.get("progress"),
            plan.steps_per_epoch,
        )
        report["skipped_steps"] = self.progress.skipped
        self.dashboard = None
        if tracker is not None and self.ledger is not None:
            self.dashboard = stack.enter_context(
                Dashboard(
                    config,
                    dataset,
                    task,
                    self.watched,
                    plan,
                    self.batches,
                    tracker,
                    self.ledger,
                    timer,
                    process.directory / "metrics.jsonl",
                    rows=rows_at_once(config, mesh),
                    fresh=restored is None,
                    warn=warn,
                )
            )
        profiled = config.train.profile_steps if process.is_chief else None
        if profiled is not None and profiled[0] > plan.total_steps:
            last = f"the run ends with step {plan.total_steps:,}"
            warn(f"train.profile_steps={profiled}: nothing will be recorded: {last}")
        profile = Profile(process.directory / TENSORBOARD, profiled, warn)
        self.profile = stack.enter_context(profile)


class Programs(NamedTuple):
    """What the configuration, the data set and the devices determine; nothing is computed yet."""

    plan: Plan  # with one step a dispatch, for train.steps_per_dispatch=auto
    schedule_of: Callable[[int], schedules.Schedule]  # of a training of so many epochs
    task: Task
    record: dict[str, Any]  # what a checkpoint keeps to make the task again
    update: step.Update
    train_step: step.TrainStep
    eval_step: evaluation.EvalStep


def make_programs(config: Config, dataset: Dataset, mesh: Mesh) -> Programs:
    """Make the programs of a run; each is compiled when it is first called.

    Raises:
        ConfigError: these devices do not have model.precision; too many steps; the user's module
            is wrong.
        DataError: all pixels of the training images are equal.
    """
    model, optim = config.model, config.optim
    limits = (config.train.limit_steps, config.train.overfit_batches)
    whole = -(-size(dataset.train) // config.train.global_batch_size)
    steps_per_epoch = min([whole, *(limit for limit in limits if limit is not None)])
    total_steps = min(config.train.epochs * steps_per_epoch, config.train.max_steps or 2**31)
    if total_steps >= 2**31:
        message = f"train.epochs={config.train.epochs}: {total_steps:,} steps"
        raise ConfigError(f"{message} are more than an int32 counts", "use fewer epochs")
    k = config.train.steps_per_dispatch
    epochs_per_span = math.gcd(config.train.eval_every_epochs, config.checkpoint.every_epochs or 0)
    plan = Plan(steps_per_epoch, k if isinstance(k, int) else 1, total_steps, epochs_per_span)

    schedule_of = partial(_schedule, optim, steps_per_epoch)

    platform, shards = mesh.devices.flat[0].platform, config.parallel.virtual_shards
    if (cannot := compiler.cannot_multiply(platform, model.precision)) is not None:
        raise ConfigError(f"model.precision={model.precision}: {cannot}", "leave it at float32")
    task, record = tasks.make(model, config.data, dataset)
    task = tasks.augmented(task, config.augment)
    weights = jax.eval_shape(task.init, jax.ShapeDtypeStruct((2,), "uint32"))
    optimizer = optimizers.make(optim.name, optim.momentum, optim.nesterov, optim.options, weights)
    skip = config.train.on_nonfinite == "skip"
    log_norm = config.train.log_gradient_norm
    fixed = transfer.frozen(weights, config.init.freeze)
    if fixed is not None:
        optimizer = optimizers.without(optimizer, fixed)
    shard_state = config.parallel.shard_state
    if shard_state != "none" and (mixes := elementwise.first_mixing(optimizer, weights)):
        message = f"parallel.shard_state={shard_state}: optim.name={optim.name} mixes the elements"
        raise ConfigError(
            f"{message} of an array ({mixes}), and a device has a part of each",
            "use an optimizer like sgd, adamw or lion, or parallel.shard_state=none",
        )
    update = step.Update(optimizer, optim.clip_norm, skip, fixed, log_norm, config.ema.decay)

    step_options = compiler.step_options(platform, mesh.size, shards)
    deterministic = config.train.deterministic
    recomputes, shares = model.remat is not None, shard_state != "none"
    train_step = step.make_train_step(
        task,
        update,
        mesh,
        config.parallel.method,
        shards,
        config.train.accumulate,
        step_options,
        compiler.xla_options(platform, deterministic, recomputes, shares),
        shard_state,
        config.parallel.reduce_dtype,
        model.remat,
    )
    how = sharding.sharing(weights, mesh, shard_state, packed=False)
    xla_options = compiler.xla_options(platform, deterministic, how is not None and how.weights)
    eval_step = evaluation.make_eval_step(task, mesh, shards, xla_options, how)
    return Programs(plan, schedule_of, task, record, update, train_step, eval_step)


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


def best_of(value: str | None, task: Task, option: str) -> Best:
    """Return the metric that says what is better, and its direction, by the value of an option.

    Raises:
        ConfigError: the task has no such metric.
    """
    if value is None:
        value = "accuracy:max" if "accuracy" in task.metric_names else "loss:min"
    metric, _, direction = value.partition(":")
    if metric not in (names := ("loss", *task.metric_names)):
        hint = f"use one of {', '.join(names)}"
        raise ConfigError(f"{option}={value}: the task has no such metric", hint)
    return Best(metric, direction == "max")


def _on_chief(process: ProcessContext, work: Callable[[], T]) -> T | None:
    """Do file work on process 0 alone; if it fails, all processes raise its error."""

    def guarded() -> T | None:
        if not process.is_chief:
            return None
        with writing(process.directory):
            return work()

    return collectives.together(guarded)


def _check_same_everywhere(dataset: Dataset) -> None:
    first, *others = collectives.share(lambda: f"{dataset.name}, SHA-256 {dataset.sha256[:16]}")
    for index, other in enumerate(others, start=1):
        if other != first:
            error = DataError(
                f"process {index} loaded another data set ({other}) than process 0 ({first})",
                "put the same files on all hosts, or name a folder that they share with data.root "
                "or data.cache_dir",
            )
            error.everywhere = True  # all processes compare the same, so all raise it
            raise error
