"""Training, told in order of time: the only place that calls everything."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from trainer import cluster, datasets, environment, recipe, resume, rundir, step, stream, summary
from trainer import mesh as meshes
from trainer.account import Account
from trainer.atomic import write_json
from trainer.checkpoint import Checkpoints, weights_sha256
from trainer.config import Config, DataConfig
from trainer.datasets import Dataset
from trainer.errors import Preempted, TrainerError
from trainer.evaluate import evaluate
from trainer.preemption import StopRequest
from trainer.program import Program
from trainer.progress import Progress
from trainer.terminal import Terminal
from trainer.tracking import Tracker


def train(config: Config, experiment: str, record: Mapping[str, str], stop: StopRequest) -> int:
    """Train, or go on training, as the configuration says; return the exit code.

    Args:
        config: every option.
        experiment: its name, part of the run directory's.
        record: file name -> text, kept in .hydra/ of the run directory.
        stop: whether somebody asked for a stop.

    Raises:
        TrainerError: before there is a run directory to write a summary to.
    """
    account = Account()
    with account.phase("startup"):
        topology = cluster.resolve(config.cluster, os.environ)
        cluster.configure(config.run, config.train.compilation_cache_dir)
        cluster.connect(topology, config.cluster)
        stop.install()
        mesh = meshes.make_mesh(config.parallel.devices)
        rows = meshes.local_rows(mesh, config.train.global_batch_size, "train.global_batch_size")
        directory = Path(cluster.broadcast_text(str(rundir.choose(config.run, experiment))))
        chief = topology.process_id == 0  # the one process that writes
        terminal = Terminal(quiet=config.run.quiet or not chief)
        if chief:
            rundir.create(directory, record)
            kinds = [f"{device.platform} {device.device_kind}" for device in mesh.devices.flat]
            facts = environment.collect(kinds, topology.num_processes)
            write_json(directory / "environment.json", facts)
    report = summary.begin(experiment)
    report["devices"], report["processes"] = mesh.size, topology.num_processes
    report["platform"] = jax.default_backend()
    report["global_batch_size"] = config.train.global_batch_size
    code = TrainerError.exit_code
    try:
        with ExitStack() as stack:
            run = Run(config, mesh, rows, directory, chief, stop, terminal, account, report, stack)
            run.fit()
        report["status"], code = "completed", 0
    except TrainerError as error:
        report["status"] = "preempted" if isinstance(error, Preempted) else "failed"
        report["error"], code = str(error), error.exit_code
        terminal.error(str(error))
    finally:
        summary.finish(report, account, config.train.global_batch_size)
        if chief:
            write_json(directory / "summary.json", report)
        terminal.close()
    if chief and report["steps"]:
        terminal.summary(summary.rows(directory, report))
    return code


class Run:
    """One process's part in a training run."""

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        rows: slice,
        directory: Path,
        chief: bool,
        stop: StopRequest,
        terminal: Terminal,
        account: Account,
        report: summary.Report,
        stack: ExitStack,
    ) -> None:
        """Load the data, restore or draw the state, open what is written to.

        Args:
            config: every option.
            mesh: the devices.
            rows: of every global batch, that this process loads.
            directory: of the run.
            chief: whether this process is the one that writes.
            stop: whether somebody asked for a stop.
            terminal: what a person sees.
            account: where the time goes.
            report: summary.json in the making.
            stack: closes what is opened here.

        Raises:
            Preempted: asked to stop before training began.
            DataError: no data, or no intact checkpoint.
        """
        self.config, self.mesh, self.stop = config, mesh, stop
        self.terminal, self.account, self.report = terminal, account, report

        stop.check("the data was loaded")
        with account.phase("startup"):
            self.dataset = _load(config.data, terminal, stop)
        report["dataset"] = summary.describe(self.dataset)
        self.recipe = recipe.make(config, self.dataset, mesh)
        self.plan = self.recipe.plan
        self.train_step = Program(self.recipe.train_step, account)
        self.eval_step = Program(self.recipe.eval_step, account)

        stop.check("the state was restored")
        self.checkpoints: Checkpoints | None = None
        self.tracker: Tracker | None = None
        with account.phase("restore"):
            if chief:
                folder, keep = directory / "checkpoints", config.checkpoint
                self.checkpoints = stack.enter_context(
                    Checkpoints(
                        folder,
                        keep_last=keep.keep_last,
                        keep_best=keep.keep_best,
                        warn=terminal.warn,
                    )
                )
            seed = config.run.seed
            begin = resume.start(self.recipe.init_weights, seed, mesh, self.checkpoints)
        self.state = begin.state
        self.done = self.first_step = begin.step or 0  # optimizer steps
        report["resumed_from_step"] = begin.step
        self._count(self.done)
        if begin.step is not None:
            terminal.note(f"resuming after step {begin.step:,}")
        if chief:
            self.tracker = stack.enter_context(
                Tracker(directory, resume_step=begin.step, warn=terminal.warn)
            )
        self.progress = Progress(
            log_every_steps=config.train.log_every_steps,
            schedule=self.recipe.schedule,
            tracker=self.tracker,
            terminal=terminal,
            saved=begin.progress,
        )
        source = stream.Superbatches(
            self.dataset.train,
            plan=self.plan,
            global_batch_size=config.train.global_batch_size,
            rows=rows,
            seed=seed if config.data.shuffle else None,
            first_step=self.first_step,
        )
        self.batches = stream.iterate(source, self.plan.dispatch_of(self.first_step))
        stack.callback(self.batches.close)
        self.pending: tuple[range, step.Reduced] | None = None

    def fit(self) -> None:
        """Train until done.

        Raises:
            Preempted: stopped as asked; what was done is saved.
        """
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
                raise Preempted(
                    f"{self.stop.signal_name or 'another process'} asked to stop: saved after "
                    f"step {self.done:,}; the same command with the same run directory goes on"
                )
        if self.report["test_accuracy"] is None:
            self.test()
        weights = jax.device_get(self.state.weights)
        self.report["weights_sha256"] = weights_sha256(weights)

    def dispatch(self) -> bool:
        """Start the next K steps, then wait for those before; return whether to stop.

        The host waits for the previous dispatch while this one is running.
        """
        with self.account.phase("data_wait"):
            batch = next(self.batches)
        with self.account.phase("step"):
            steps = range(self.done, self.done + len(batch.labels))
            self.state, reduced = self.train_step(self.state, self._feed(batch, steps))
        stopping = self.settle()
        self.pending, self.done = (steps, reduced), steps.stop
        return stopping

    def _feed(self, batch: stream.Superbatch, steps: range) -> step.Feed:
        """Start copying to the devices what a dispatch consumes."""
        stop = np.full((len(steps), jax.local_device_count()), self.stop(), np.uint8)
        batch, stop = meshes.place(meshes.batched(self.mesh), (batch, stop))
        numbers = np.array(steps)
        lrs, counts = self.recipe.schedule(numbers), numbers.astype(np.int32)
        lrs, counts = meshes.place(meshes.replicated(self.mesh), (lrs, counts))
        return step.Feed(batch, stop, lrs, counts)

    def settle(self) -> bool:
        """Wait for the dispatch under way and count it in; return whether to stop.

        All processes see the same votes after the same dispatch, so they stop at the same step.
        """
        if self.pending is None:
            return False
        steps, reduced = self.pending
        self.pending = None
        with self.account.phase("step"):
            reduced = jax.device_get(reduced)
        rows = np.stack(reduced.sums, axis=-1).astype(np.float64)
        examples = (steps.stop - self.first_step) * self.config.train.global_batch_size
        self.progress.add(steps, rows, examples / self.account.training)
        self._count(steps.stop)
        return bool(reduced.stop_votes.any())

    def test(self) -> float:
        """Evaluate the test split, tell everybody, and return the accuracy."""
        began = time.perf_counter()
        with self.account.phase("evaluate"):
            tested = evaluate(
                self.eval_step,
                self.state.weights,
                self.dataset.test,
                self.mesh,
                self.config.train.eval_batch_size,
            )
        self.report["test_loss"], self.report["test_accuracy"] = tested.loss, tested.accuracy
        if self.tracker is not None:
            values = {"loss": tested.loss, "accuracy": tested.accuracy}
            self.tracker.scalars("eval", self.done, values)
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
        if self.checkpoints is None:
            return
        with self.account.phase("save"):
            state = jax.tree.map(np.array, jax.device_get(self.state))  # copied: it is donated
            record = {
                "config": dataclasses.asdict(self.config),
                "dataset": self.report["dataset"],
                "progress": self.progress.state(),
            }
            self.checkpoints.save(self.done, state, record, accuracy)

    def _count(self, steps: int) -> None:
        self.report["steps"], self.report["epochs"] = steps, steps / self.plan.steps_per_epoch

    def _reached(self, every_steps: int | None, first: int) -> bool:
        """Return whether the steps from `first` until now reach a multiple of every_steps."""
        return every_steps is not None and first // every_steps < self.done // every_steps


def _load(data: DataConfig, terminal: Terminal, stop: StopRequest) -> Dataset:
    return datasets.load(
        data.name,
        root=Path(data.root).expanduser() if data.root is not None else None,
        cache_dir=Path(data.cache_dir).expanduser(),
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
