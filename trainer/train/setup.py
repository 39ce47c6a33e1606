"""Before the first step: the data is loaded, the state restored or drawn, the files are opened."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from trainer.config.fingerprint import fingerprint
from trainer.dashboard.dashboard import Dashboard
from trainer.data import stream
from trainer.data.dataset import Dataset
from trainer.distributed import collectives
from trainer.job.errors import DataError, Preempted
from trainer.parallel.compiler import Program
from trainer.parallel.evaluation import Evaluator
from trainer.parallel.step import TrainState
from trainer.tracking import summaries, summary
from trainer.tracking.profile import Profile
from trainer.tracking.tensorboard import TENSORBOARD
from trainer.train import build as recipe
from trainer.train import resume, steps_per_dispatch
from trainer.train.context import Task, check_stop, in_directory
from trainer.train.feed import Feeder
from trainer.train.progress import Progress
from trainer.train.writer import Writer


class Opened(NamedTuple):
    """What training works with; on all processes but the chief, nothing that writes."""

    recipe: recipe.Recipe
    plan: stream.Plan  # the recipe's, with K as it was measured
    train_step: Program
    evaluator: Evaluator
    state: TrainState
    done: int  # optimizer steps
    progress: Progress
    source: stream.Superbatches
    feeder: Feeder
    writer: Writer | None
    dashboard: Dashboard | None
    profile: Profile


def open_all(task: Task, stack: ExitStack) -> Opened:
    """Load the data, restore or draw the state, open what is written to.

    Args:
        task: the job's.
        stack: closes what is opened here.

    Raises:
        Preempted: asked to stop before training began.
        ConfigError: the run directory holds a run of another meaning.
        DataError: no data, not the same on all processes, or no intact checkpoint.
        ReadError, SaveError: the storage does not let the run directory be read or written.
    """
    config, place, report = task.config, task.place, task.report
    with task.timer.phase("startup"):
        check_stop(task, "the data was loaded")
        dataset, made = _load(task)
    report["dataset"] = summary.describe(dataset)
    train_step = Program(made.train_step, task.timer)
    with task.timer.phase("restore"):
        check_stop(task, "the state was restored")
        writer = _open_writer(task, stack)
        meant = fingerprint(config, report["dataset"])
        checkpoints = writer.checkpoints if writer is not None else None
        seed = config.run.seed
        begin = resume.start(made.init_weights, seed, place.mesh, checkpoints, meant, made.plan)
    done = begin.step or 0
    report["resumed_from_step"] = begin.step
    if begin.step is not None:
        task.terminal.note(f"resuming after step {begin.step:,}")
    objective = {**made.objective._asdict(), "image_shape": dataset.shape}
    _begin_writer(task, writer, begin, meant, objective, stack)
    plan = _plan(task, made.plan, train_step, begin.state, done, dataset)
    report["steps_per_dispatch"] = plan.steps_per_dispatch
    progress = Progress(
        log_every_steps=config.train.log_every_steps,
        schedule=made.schedule,
        tracker=writer.tracker if writer is not None else None,
        terminal=task.terminal,
        saved=begin.progress,
    )
    report["skipped_steps"] = progress.skipped
    source = stream.Superbatches(
        dataset.train,
        plan=plan,
        global_batch_size=config.train.global_batch_size,
        rows=place.rows,
        seed=seed if config.data.shuffle else None,
        first_step=done,
    )
    dashboard, warn = None, task.terminal.warn
    if writer is not None:
        dashboard = stack.enter_context(
            Dashboard(
                config,
                dataset,
                made.objective,
                made.plan,
                source,
                writer.tracker,
                writer.ledger,
                task.timer,
                fresh=begin.step is None,
                warn=warn,
            )
        )
    profiled = config.train.profile_steps if place.is_chief else None
    if profiled is not None and profiled[0] > plan.total_steps:
        last = f"the run ends with step {plan.total_steps:,}"
        warn(f"train.profile_steps={profiled}: nothing will be recorded: {last}")
    profile = stack.enter_context(Profile(place.directory / TENSORBOARD, profiled, warn))
    batches = stream.iterate(source)
    stack.callback(batches.close)
    return Opened(
        recipe=made,
        plan=plan,
        train_step=train_step,
        evaluator=Evaluator(
            Program(made.eval_step, task.timer),
            dataset.test,
            place.mesh,
            config.train.eval_batch_size,
            config.parallel.virtual_shards,
        ),
        state=begin.state,
        done=done,
        progress=progress,
        source=source,
        feeder=Feeder(place.mesh, made.schedule, batches, done, task.timer),
        writer=writer,
        dashboard=dashboard,
        profile=profile,
    )


def _load(task: Task) -> tuple[Dataset, recipe.Recipe]:
    def should_stop() -> bool:
        task.timer.alive()  # it is asked all the time while data is downloaded
        return task.stop()

    def load() -> tuple[Dataset, recipe.Recipe]:
        dataset = recipe.load_dataset(task.config.data, task.terminal, should_stop)
        return dataset, recipe.make(task.config, dataset, task.place.mesh)

    loaded = collectives.together(load)
    sets = collectives.share(lambda: f"{loaded[0].name}, SHA-256 {loaded[0].sha256[:16]}")
    for index, other in enumerate(sets):
        if other != sets[0]:
            differ = DataError(
                f"process {index} loaded another data set ({other}) than process 0 ({sets[0]})",
                "put the same files on all hosts, or name a folder that they share with data.root "
                "or data.cache_dir",
            )
            differ.everywhere = True
            raise differ
    return loaded


def _open_writer(task: Task, stack: ExitStack) -> Writer | None:
    def work() -> Writer | None:
        if not task.place.is_chief:
            return None
        return Writer(task.config, task.place.directory, task.terminal, task.timer, stack)

    return in_directory(task, work)


def _begin_writer(
    task: Task,
    writer: Writer | None,
    begin: resume.Start,
    meant: Mapping[str, Any],
    objective: Mapping[str, Any],
    stack: ExitStack,
) -> None:
    def work() -> None:
        if writer is not None:
            devices = [f"{d.platform} {d.device_kind}" for d in task.place.mesh.devices.flat]
            writer.begin(
                begin.step, begin.record, meant, objective, task.record, devices, begin.state
            )
            stack.callback(_close_ledger, task, writer)
            stack.push(partial(_describe_end, writer))

    in_directory(task, work)


def _close_ledger(task: Task, writer: Writer) -> None:
    writer.ledger.write(task.report["steps"], now=True)
    task.report["goodput"] = writer.ledger.totals()


def _describe_end(writer: Writer, kind: type[BaseException] | None, *_: object) -> None:
    if not (kind and issubclass(kind, Preempted)):
        summaries.end(writer.tracker, failed=kind is not None)


def _plan(
    task: Task,
    plan: stream.Plan,
    train_step: Program,
    state: TrainState,
    done: int,
    dataset: Dataset,
) -> stream.Plan:
    """Return the recipe's plan, with K measured where it is left to the trainer."""
    if task.config.train.steps_per_dispatch != "auto" or done >= plan.total_steps:
        return plan
    with task.timer.phase("startup"):
        k = steps_per_dispatch.steps_per_dispatch(
            train_step,
            state,
            mesh=task.place.mesh,
            first_step=done,
            steps_per_epoch=plan.steps_per_epoch,
            local_batch=task.place.rows.stop - task.place.rows.start,
            pixels=dataset.train.images.shape[1],
            alive=task.timer.alive,
        )
        return plan._replace(steps_per_dispatch=collectives.share(lambda: k)[0])
