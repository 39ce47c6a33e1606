"""Training, told in order of time: load, restore, then dispatch, evaluate and save until done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from trainer import cluster, description, feed, pace, recipe, resume, step, stream, summary
from trainer.account import Account
from trainer.atomic import write_json
from trainer.checkpoint import weights_sha256
from trainer.config import Config
from trainer.dashboard import Dashboard
from trainer.datasets import Dataset
from trainer.errors import NonFinite, Preempted, unwritable
from trainer.evaluate import evaluate
from trainer.meaning import meaning
from trainer.nonfinite import diagnose
from trainer.preemption import StopRequest
from trainer.profiling import Profile
from trainer.program import Program
from trainer.progress import Progress
from trainer.terminal import Terminal
from trainer.tracking import TENSORBOARD
from trainer.writer import Writer


class Place(NamedTuple):
    """Where this process stands among the others."""

    mesh: Mesh
    rows: slice  # of every global batch, that this process loads
    directory: Path  # of the run
    chief: bool  # the one process that writes


class Run:
    """One process's part in a training run."""

    def __init__(
        self,
        config: Config,
        place: Place,
        record: Mapping[str, str],
        stop: StopRequest,
        terminal: Terminal,
        account: Account,
        report: summary.Report,
        stack: ExitStack,
    ) -> None:
        """Load the data, restore or draw the state, open what is written to.

        Args:
            config: every option.
            place: of this process among the others.
            record: file name -> text, kept in .hydra/ of the run directory.
            stop: whether somebody asked for a stop.
            terminal: what a person sees.
            account: where the time goes.
            report: summary.json in the making.
            stack: closes what is opened here.

        Raises:
            Preempted: asked to stop before training began.
            ConfigError: the run directory holds a run of another meaning.
            DataError: no data, or no intact checkpoint.
        """
        self.config, self.place, self.stop = config, place, stop
        self.terminal, self.account, self.report = terminal, account, report

        with account.phase("startup"):
            self._check("the data was loaded")
            self.dataset, self.recipe = self._load()
        self.train_step = Program(self.recipe.train_step, account)
        self.eval_step = Program(self.recipe.eval_step, account)
        report["dataset"] = summary.describe(self.dataset)

        with account.phase("restore"):
            self._check("the state was restored")
            self.writer: Writer | None
            self._write(self._open_writer, stack)
            meant = meaning(config, report["dataset"])
            begin = resume.start(
                self.recipe.init_weights,
                config.run.seed,
                place.mesh,
                self.writer.checkpoints if self.writer is not None else None,
                meant,
                self.recipe.plan,
            )
        self.state = begin.state
        self.done = self.first_step = begin.step or 0  # optimizer steps
        report["resumed_from_step"] = begin.step
        if begin.step is not None:
            terminal.note(f"resuming after step {begin.step:,}")
        self._write(self._begin_writer, begin, meant, record, stack)
        self.plan = self._plan()
        report["steps_per_dispatch"] = self.plan.steps_per_dispatch
        self._count(self.done)
        self.progress = Progress(
            log_every_steps=config.train.log_every_steps,
            schedule=self.recipe.schedule,
            tracker=self.writer.tracker if self.writer is not None else None,
            terminal=terminal,
            saved=begin.progress,
        )
        report["skipped_steps"] = self.progress.skipped
        self.source = stream.Superbatches(
            self.dataset.train,
            plan=self.plan,
            global_batch_size=config.train.global_batch_size,
            rows=place.rows,
            seed=config.run.seed if config.data.shuffle else None,
            first_step=self.first_step,
        )
        self.dashboard: Dashboard | None = None
        if self.writer is not None:
            shown = (config, self.dataset, self.recipe, self.source, self.writer)
            fresh = begin.step is None
            self.dashboard = Dashboard(*shown, account, fresh, terminal.warn)
            stack.enter_context(self.dashboard)
        profiled = config.train.profile_steps if place.chief else None
        self.profile = stack.enter_context(Profile(place.directory / TENSORBOARD, profiled))
        self.batches = stream.iterate(self.source)
        stack.callback(self.batches.close)
        self.pending: tuple[range, step.Reduced] | None = None

    def _plan(self) -> stream.Plan:
        """Return the recipe's plan, with K measured where it is left to the trainer."""
        plan = self.recipe.plan
        if self.config.train.steps_per_dispatch != "auto" or self.done >= plan.total_steps:
            return plan
        with self.account.phase("startup"):
            k = pace.steps_per_dispatch(
                self.train_step,
                self.state,
                mesh=self.place.mesh,
                first_step=self.done,
                steps_per_epoch=plan.steps_per_epoch,
                local_batch=self.place.rows.stop - self.place.rows.start,
                pixels=self.dataset.train.images.shape[1],
            )
        return plan._replace(steps_per_dispatch=k)

    def fit(self) -> None:
        """Train until done.

        Raises:
            Preempted: stopped as asked; what was done is saved.
            NonFinite: a loss or gradient was not finite; the state before it is saved.
            SaveError: checkpoints cannot be written any more.
        """
        self._check("training began")
        every_epochs = self.config.checkpoint.every_epochs
        self.terminal.start(self.plan.total_steps, self.done, self.plan.steps_per_epoch)
        while self.done < self.plan.total_steps:
            first = self.done
            stopping = self.dispatch()
            epoch, inside = divmod(self.done, self.plan.steps_per_epoch)
            last = self.done == self.plan.total_steps
            accuracy = None
            if inside == 0:
                stopping |= self.settle()
                if last or epoch % self.config.train.eval_every_epochs == 0:
                    accuracy = self.test()
                self.progress.end_epoch()
            if (
                last
                or stopping
                or (inside == 0 and every_epochs and epoch % every_epochs == 0)
                or self._reached(self.config.checkpoint.every_steps, first)
            ):
                stopping |= self.settle()
                self.save(accuracy)
            if stopping and not last:
                self._stop()
        if self.report["test_accuracy"] is None:
            self.test()
        cluster.share(self._finish_saves)
        self.report["weights_sha256"] = weights_sha256(jax.device_get(self.state.weights))

    def dispatch(self) -> bool:
        """Start the next K steps, then wait for those before; return whether to stop.

        The host waits for the previous dispatch while this one is running.
        """
        with self.account.phase("data_wait"):
            batch = next(self.batches)
        with self.account.phase("step"):
            steps = range(self.done, self.done + len(batch.labels))
            asked = self.stop() or (self.writer is not None and self.writer.failing())
            self.profile.starting(steps)
            fed = feed.start(self.place.mesh, self.recipe.schedule, batch, steps, asked)
            self.state, reduced = self.train_step(self.state, fed)
        stopping = self.settle()
        self.pending, self.done = (steps, reduced), steps.stop
        return stopping

    def settle(self) -> bool:
        """Wait for the dispatch under way and count it in; return whether to stop.

        All processes see the same votes after the same dispatch, so they stop at the same step.
        """
        if self.pending is None:
            return False
        (steps, reduced), self.pending = self.pending, None
        with self.account.phase("step"):
            reduced = jax.device_get(reduced)
        self.profile.settled(steps.stop)
        good = len(steps)
        if not reduced.finite.all():
            bad = int(np.argmin(reduced.finite))
            if self.config.train.on_nonfinite == "stop":
                good = bad
            else:
                self.progress.skipped += int((~reduced.finite).sum())
                self.report["skipped_steps"] = self.progress.skipped
                self.terminal.warn(f"step {steps[bad] + 1:,} was not finite: its update is dropped")
        rows = np.stack(reduced.sums, axis=-1).astype(np.float64)[:good]
        examples = (steps.start + good - self.first_step) * self.config.train.global_batch_size
        speed = examples / self.account.training
        self.progress.add(steps[:good], rows, speed)
        self._count(steps.start + good)
        if self.writer is not None:
            self.writer.ledger.write(steps.start + good)
        if self.dashboard is not None:
            self.dashboard.settled(steps.start + good)
        if good < len(steps):
            self._end_nonfinite(steps[good])
        return bool(reduced.stop_votes.any())

    def test(self) -> float:
        """Evaluate the test split, tell everybody, and return the accuracy."""
        began = time.perf_counter()
        with self.account.phase("evaluate"):
            size = self.config.train.eval_batch_size
            split, mesh = self.dataset.test, self.place.mesh
            shards = self.config.parallel.virtual_shards
            tested = evaluate(self.eval_step, self.state.weights, split, mesh, size, shards)
            if self.dashboard is not None:
                self.dashboard.evaluated(self.done, self.state.weights, tested)
        self.report["test_loss"], self.report["test_accuracy"] = tested.loss, tested.accuracy
        self.terminal.evaluation(
            self.done // self.plan.steps_per_epoch,
            self.done,
            self.progress.epoch.loss,
            tested.loss,
            tested.accuracy,
            time.perf_counter() - began,
        )
        return tested.accuracy

    def save(self, accuracy: float | None) -> None:
        """Start writing a checkpoint of the steps done."""
        if self.writer is not None:
            self.writer.save(self.done, self.state, self.progress.state(), accuracy)

    def _end_nonfinite(self, number: int) -> None:
        """Save the state before a step that was not finite, say what is known of it, and end."""
        self.done = number
        self.save(None)
        told = self.place.directory / "nonfinite.json"

        def diagnosis() -> None:
            if self.place.chief:
                state = jax.device_get(self.state)
                write_json(told, diagnose(state, self.recipe.objective, self.source, number))

        self._write(diagnosis)

        def end() -> None:
            self._finish_saves()
            raise NonFinite(
                f"step {number + 1:,}: the loss or a gradient is not finite. The state before it "
                f"is saved, {told} says more. Go on with train.on_nonfinite=skip, or begin another "
                "run (run.name=NAME) with a lower optim.lr"
            )

        cluster.share(end)

    def _write(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do the file work of one process; where it fails, all end alike."""

        def write() -> None:
            try:
                work(*arguments)
            except OSError as error:
                raise unwritable(self.place.directory, error) from None

        cluster.share(write)

    def _open_writer(self, stack: ExitStack) -> None:
        self.writer = None
        if self.place.chief:
            where = self.place.directory
            self.writer = Writer(self.config, where, self.terminal, self.account, stack)

    def _begin_writer(
        self,
        begin: resume.Start,
        meant: Mapping[str, Any],
        record: Mapping[str, str],
        stack: ExitStack,
    ) -> None:
        if self.writer is not None:
            devices = [f"{d.platform} {d.device_kind}" for d in self.place.mesh.devices.flat]
            objective = {**self.recipe.objective._asdict(), "image_shape": self.dataset.shape}
            self.writer.begin(begin.step, begin.record, meant, objective, record, devices)
            stack.callback(self._close_ledger)
            stack.push(self._describe_end)

    def _finish_saves(self) -> None:
        if self.writer is not None:
            self.writer.finish_saves()

    def _count(self, steps: int) -> None:
        self.report["steps"], self.report["epochs"] = steps, steps / self.plan.steps_per_epoch

    def _reached(self, every_steps: int | None, first: int) -> bool:
        """Return whether the steps from `first` until now reach a multiple of every_steps."""
        return every_steps is not None and first // every_steps < self.done // every_steps

    def _load(self) -> tuple[Dataset, recipe.Recipe]:
        loaded: list[tuple[Dataset, recipe.Recipe]] = []

        def should_stop() -> bool:
            self.account.alive()  # it is asked all the time while data is downloaded
            return self.stop()

        def load() -> None:
            dataset = recipe.load_dataset(self.config.data, self.terminal, should_stop)
            loaded.append((dataset, recipe.make(self.config, dataset, self.place.mesh)))

        cluster.share(load)
        return loaded[0]

    def _close_ledger(self) -> None:
        if self.writer is not None:
            self.writer.ledger.write(self.report["steps"], now=True)
            self.report["goodput"] = self.writer.ledger.totals()

    def _describe_end(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.writer is not None and not (kind and issubclass(kind, Preempted)):
            description.end(self.writer.tracker, failed=kind is not None)

    def _check(self, doing: str) -> None:
        """Stop on all processes if any was asked to before `doing`."""

        def check() -> None:
            if self.stop():
                raise Preempted(f"{self.stop.signal_name} received before {doing}")

        cluster.share(check)

    def _stop(self) -> None:
        """End on all processes, saying why; the steps done are saved."""

        def end() -> None:
            self._finish_saves()
            raise Preempted(
                f"{self.stop.signal_name or 'a stop signal to another process'}: saved after step "
                f"{self.done:,}; the same command with the same run directory goes on from there"
            )

        cluster.share(end)
