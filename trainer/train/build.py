"""Everything before the first step, in order: data, programs, state, files, stream."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

import jax

from trainer.checkpoint import checksums
from trainer.checkpoint.shared import SharedCheckpoints
from trainer.checkpoint.store import Best, Checkpoints, Restored
from trainer.config import user_module
from trainer.config.fingerprint import differences, fingerprint
from trainer.config.schema import Config, as_json
from trainer.dashboard.dashboard import Dashboard
from trainer.data.dataset import Dataset, first, size
from trainer.data.report import Report
from trainer.data.stream import iterate
from trainer.distributed import collectives
from trainer.distributed.initialize import ProcessContext
from trainer.job import directory as run_directory
from trainer.job.errors import ConfigError, DataError, Preempted, writing
from trainer.job.signals import StopRequest
from trainer.parallel import sharding, step
from trainer.parallel.compiler import CompiledFunction
from trainer.sources import load as data_sets
from trainer.tasks.task import Task, named_leaves
from trainer.tracking import environment, summaries, summary
from trainer.tracking.goodput import Ledger, PhaseTimer
from trainer.tracking.profile import Profile
from trainer.tracking.tensorboard import TENSORBOARD, Tracker
from trainer.tracking.terminal import Terminal
from trainer.train import resume, steps_per_dispatch
from trainer.train.feed import Feeder
from trainer.train.programs import (
    Programs,
    evaluators,
    make_programs,
    rows_at_once,
    superbatches,
)
from trainer.train.progress import Patience, Progress
from trainer.train.writer import Writer

T = TypeVar("T")


class Run:
    """Everything the training loop works with.

    The loop changes `state`, `steps_done`, `pending` and `evaluated_at` alone.
    """

    def __init__(
        self,
        config: Config,
        process: ProcessContext,
        record: Mapping[str, str],
        stop: StopRequest,
        terminal: Terminal,
        timer: PhaseTimer,
        report: summary.Summary,
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
        self._stack = stack
        self.pending: tuple[range, step.StepMetrics] | None = None  # metrics not fetched yet
        self.evaluated_at: dict[str, int] = {}  # split -> the step of its last evaluation
        self._load_data()
        restored = self._restore_state()
        tracker = self._open_files(record, restored)
        self._open_stream()
        self._show_progress(restored, tracker)

    def _load_data(self) -> None:
        """Load the data set, all of it on every process, and make the programs for it."""
        config, report = self.config, self.report

        def poll() -> None:
            self.timer.alive()  # for the watchdog
            self.stop.check("during the download of the data set")

        def load() -> tuple[Dataset, Programs]:
            show = Report(self.terminal.download, poll, self.terminal.warn)
            dataset = data_sets.load(config.data, show)
            return dataset, make_programs(config, dataset, self.process.mesh)

        self.check_stop("before the data was loaded")
        dataset, self.programs = collectives.together(load)
        _check_same_everywhere(dataset)
        report["dataset"] = summary.describe(dataset)
        if config.data.name == "mnist" != dataset.name:
            report["fallback_from"] = "mnist"
        if (batches := config.train.overfit_batches) is not None:
            few = first(dataset.train, batches * config.train.global_batch_size)
            dataset = dataset._replace(train=few, mixture=None)
        self.dataset = dataset
        if (batch_size := config.train.global_batch_size) > (examples := size(dataset.train)):
            text = f"train.global_batch_size={batch_size}: there are {examples:,} training examples"
            self.terminal.warn(f"{text}: each step takes all of them")
        steps, decay = self.programs.plan.total_steps, config.ema.decay
        if decay is not None and steps * (1 - decay) < 3:
            text = f"ema.decay={decay:g}: {decay**steps:.0%} of the average after {steps:,} steps"
            self.terminal.warn(f"{text} are the first weights: use a smaller one, or train longer")
        best, stop_early = config.checkpoint.best, config.train.stop_early
        self._best = best_of(best, self.programs.task, "checkpoint.best")
        report["best"] = f"{self._best.metric}:{'max' if self._best.largest else 'min'}"
        metric = stop_early.metric or best
        self._stop_early_by = best_of(metric, self.programs.task, "train.stop_early.metric")
        if stop_early.patience is not None and dataset.validation is None:
            raise ConfigError(
                f"train.stop_early.patience={stop_early.patience}: there is no validation split",
                "use data.validation_fraction above 0, or null here",
            )

    def _restore_state(self) -> Restored | None:
        """Restore the state from the newest intact checkpoint, or initialize it."""
        config, process, report, terminal = self.config, self.process, self.report, self.terminal
        task, update = self.programs.task, self.programs.update
        self._fingerprint = fingerprint(config, report["dataset"])
        self._folder = process.directory / run_directory.CHECKPOINTS

        def open_checkpoints() -> Checkpoints:
            checkpoints = Checkpoints(
                self._folder,
                keep_last=config.checkpoint.keep_last,
                keep_best=config.checkpoint.keep_best,
                best=self._best,
                warn=terminal.warn,
                shape=checksums.RECORD,
            )
            return self._stack.enter_context(checkpoints)

        key = jax.random.PRNGKey(config.run.seed)
        template = jax.eval_shape(partial(step.new_state, task, update), key)
        shard_state = config.parallel.shard_state
        shardings = sharding.of_state(template, process.mesh, shard_state)
        self.check_stop("before the state was restored")
        self._checkpoints = self._on_chief(open_checkpoints)
        with self.timer.phase("restore"):
            plan, schedule_of = self.programs.plan, self.programs.schedule_of
            options = self._fingerprint
            restored = resume.restore(
                self._checkpoints, self._folder, template, shardings, options, plan, schedule_of
            )
        if restored is not None:
            self.state = restored.state
            terminal.note(f"resuming after step {restored.step:,}")
        else:
            state = step.init_state(task, update, key, process.mesh, shard_state)
            if config.init.run is not None:
                weights = state.weights
                del state  # its memory is needed
                weights = resume.other_weights(config.init, weights, process, terminal)
                make = partial(step.state_of, update=update)
                state = jax.jit(make, out_shardings=shardings)(weights)
            self.state = state
            if update.frozen is not None:
                frozen = [path for path, fixed in named_leaves(update.frozen).items() if fixed]
                terminal.note(f"init.freeze: {', '.join(frozen)}")
        report["resumed_from_step"] = restored and restored.step
        self.steps_done = restored.step if restored else 0
        return restored

    def _open_files(self, record: Mapping[str, str], restored: Restored | None) -> Tracker | None:
        """Open the files of the run, and get ready to save.

        They are closed in the reverse order: first the last checkpoint is written, then the account
        of the run, and the tracker, which both use, is closed last.

        Returns the tracker, on process 0 alone.
        """
        config, process, warn = self.config, self.process, self.terminal.warn
        saved = restored.record if restored else {}
        self.ledger: Ledger | None = None  # of process 0 alone

        def open_on_chief() -> tuple[Tracker, checksums.Record]:
            devices = [f"{d.platform} {d.device_kind}" for d in process.mesh.devices.flat]
            facts = environment.collect(devices, jax.process_count())
            if saved and (changed := differences(saved["versions"], facts["versions"])):
                warn(
                    f"the run resumes with other versions ({', '.join(changed)}): its last digits "
                    "may differ from those of an uninterrupted run"
                )
            module = self.programs.record.get("module_sha256")
            if saved and saved.get("module_sha256") != module:
                own = f"model.module={config.model.module}"
                warn(f"{own} or a file that it imports has changed since the last checkpoint")
            run_directory.describe(process.directory, record, facts)
            resumed = restored and restored.step
            tracker = self._stack.enter_context(Tracker(process.directory, resumed, warn))
            yaml, name = record["config.yaml"], self.dataset.name
            summaries.write_start(tracker, config, name, saved.get("config"), yaml, facts)
            path = process.directory / "goodput.json"
            self.ledger = ledger = Ledger(path, self.timer, self.steps_done, tracker.reached, warn)

            def close(kind: type[BaseException] | None, *_: object) -> None:
                ledger.write(self.report["steps"], now=True)
                self.report["goodput"] = ledger.totals()
                if not (kind and issubclass(kind, Preempted)):  # the run has not ended
                    summaries.write_end(tracker, failed=kind is not None)

            self._stack.push(close)
            return tracker, self._kept(facts["versions"])

        tracker, kept = self._on_chief(open_on_chief) or (None, {})
        saves: Checkpoints | SharedCheckpoints | None = self._checkpoints
        if not sharding.is_whole(self.state):
            values, timeout = collectives.KeyValues, config.cluster.hang_timeout_seconds
            saves = SharedCheckpoints(self._folder, self._checkpoints, values, timeout)
        self.writer: Writer | None = None
        if saves is not None:
            writer = Writer(
                saves,
                kept,
                flush=tracker.flush if tracker else lambda: None,
                max_failed_saves=config.checkpoint.max_failed_saves,
                timer=self.timer,
                warn=warn if process.is_chief else lambda _: None,  # one warns for all
            )
            self.writer = self._stack.enter_context(writer)
        return tracker

    def _kept(self, versions: Mapping[str, str | None]) -> checksums.Record:
        """Return what every checkpoint keeps beside the arrays."""
        options, data = as_json(self.config), self.config.data
        root, module = data.root, data.module
        return {
            "meaning": self._fingerprint,
            **self.programs.record,
            "config": options,
            "config_sha256": checksums.of_json(options),
            # For readers in another folder, from where a relative path leads elsewhere.
            "data_root": root and str(Path(root).expanduser().absolute()),
            "data_module": module and str(user_module.file_of("data.module", module)),
            "versions": versions,
        }

    def _open_stream(self) -> None:
        """Choose K, the steps of a dispatch, and open the stream of batches.

        Batch i depends on nothing but the seed and i, so that a resumed run continues with the
        batch after the last one that its checkpoint has seen.
        """
        config, process, programs = self.config, self.process, self.programs
        batches = partial(
            superbatches, config, self.dataset, programs.task, process.rows, self.steps_done
        )
        plan = programs.plan
        self.train_step = CompiledFunction(programs.train_step, self.timer)
        if config.train.steps_per_dispatch == "auto" and self.steps_done < plan.total_steps:
            # Measured with the program, the state and a batch of this run.
            k = steps_per_dispatch.choose(
                self.train_step,
                self.state,
                batches(plan)[plan.dispatch_of(self.steps_done)],
                mesh=process.mesh,
                first_step=self.steps_done,
                plan=plan,
                alive=self.timer.alive,
            )
            plan = plan._replace(steps_per_dispatch=k)
        self.plan, self.batches = plan, batches(plan)
        self.report["steps_per_dispatch"] = plan.steps_per_dispatch
        stream = iterate(self.batches)
        self._stack.callback(stream.close)
        self.schedule = programs.schedule_of(config.train.epochs)
        seed = config.run.seed
        self.feeder = Feeder(process.mesh, self.schedule, stream, self.steps_done, seed, self.timer)

    def _show_progress(self, restored: Restored | None, tracker: Tracker | None) -> None:
        """Make what measures, records and shows how training goes."""
        config, process, programs = self.config, self.process, self.programs
        task, warn = programs.task, self.terminal.warn
        saved = restored.record.get("progress", {}) if restored else {}
        eval_step = CompiledFunction(programs.eval_step, self.timer)
        self.evaluators = evaluators(config, self.dataset, task, eval_step, process.mesh)
        stop_early = config.train.stop_early
        self.patience = Patience(
            self._stop_early_by, stop_early.patience, stop_early.min_delta, saved.get("patience")
        )
        logged = ("gradient_norm",) if programs.update.log_norm else ()
        self.progress = Progress(
            config.train.log_every_steps,
            (*task.metric_names, *logged),
            self.schedule,
            tracker,
            self.terminal,
            saved,
            self.plan.steps_per_epoch,
        )
        self.dashboard: Dashboard | None = None
        if tracker is not None and self.ledger is not None:
            rows = rows_at_once(config, process.mesh)
            dashboard = Dashboard(
                config, self.dataset, task, self.batches, rows, tracker, self.ledger
            )
            self.dashboard = self._stack.enter_context(dashboard)
            if restored is None:
                self.dashboard.begin()
        profiled = config.train.profile_steps if process.is_chief else None
        if profiled is not None and profiled[0] > self.plan.total_steps:
            last = f"the run ends with step {self.plan.total_steps:,}"
            warn(f"train.profile_steps={profiled}: nothing will be recorded: {last}")
        profile = Profile(process.directory / TENSORBOARD, profiled, warn)
        self.profile = self._stack.enter_context(profile)

    def check_stop(self, when: str) -> None:
        """Raise Preempted on all processes if one was asked to stop."""
        self.timer.alive()
        collectives.share(partial(self.stop.check, when))

    def _on_chief(self, work: Callable[[], T]) -> T | None:
        """Do file work on process 0 alone; if it fails, all processes raise its error."""

        def guarded() -> T | None:
            if not self.process.is_chief:
                return None
            with writing(self.process.directory):
                return work()

        return collectives.together(guarded)


def best_of(value: str | None, task: Task, option: str) -> Best:
    """Return the metric that says what is better, and its direction, by the value of an option.

    Raises:
        ConfigError: the task has no such metric.
    """
    value = value or summary.default_best(task.metric_names)
    best = Best.of(value)
    if best.metric not in (names := ("loss", *task.metric_names)):
        hint = f"use one of {', '.join(names)}"
        raise ConfigError(f"{option}={value}: the task has no such metric", hint)
    return best


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
