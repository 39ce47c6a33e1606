"""Training, told in order of time: dispatch, evaluate and save until done."""

from __future__ import annotations

import time
from contextlib import ExitStack

import jax
import numpy as np

from trainer.checkpoint import checksums
from trainer.distributed import collectives
from trainer.job.errors import NonFinite, Preempted
from trainer.job.files import write_json
from trainer.parallel import step
from trainer.tracking import summary
from trainer.train import feed
from trainer.train.context import Task, check_stop
from trainer.train.nonfinite import diagnose
from trainer.train.setup import open_all


class Run:
    """One process's part in a training run."""

    def __init__(self, task: Task, stack: ExitStack) -> None:
        """Make ready to train; see `opening.open_all` for the arguments, and for what it raises."""
        opened = open_all(task, stack)
        self.task, self.config, self.place, self.stop = task, task.config, task.place, task.stop
        self.terminal, self.timer, self.report = task.terminal, task.timer, task.report
        self.recipe, self.plan = opened.recipe, opened.plan
        self.train_step, self.evaluator = opened.train_step, opened.evaluator
        self.source, self.feeder, self.progress = opened.source, opened.feeder, opened.progress
        self.writer, self.dashboard, self.profile = opened.writer, opened.dashboard, opened.profile
        self.state = opened.state
        self.done = opened.done  # optimizer steps
        self.pending: tuple[range, step.Reduced] | None = None
        self._count(self.done)

    def fit(self) -> None:
        """Train until done.

        Raises:
            Preempted: stopped as asked; what was done is saved.
            NonFinite: a loss or gradient was not finite; the state before it is saved.
            SaveError: checkpoints cannot be written any more.
        """
        check_stop(self.task, "training began")
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
        collectives.share(self._finish_saves)
        collectives.share(self._check_last_update)
        self.report["weights_sha256"] = checksums.of_weights(jax.device_get(self.state.weights))

    def dispatch(self) -> bool:
        """Start the next K steps, then wait for those before; return whether to stop.

        The host waits for the previous dispatch while this one is running, and the batches of the
        next one are on their way.
        """
        sent = self.feeder.take()
        # A copy waits for what the device has been given before. So the next one comes first,
        # unless the device has nothing to do.
        if self.pending is not None:
            self.feeder.read_ahead()
        with self.timer.phase("step"):
            asked = self.stop() or (self.writer is not None and self.writer.failing())
            self.profile.starting(sent.numbers)
            fed = feed.start(self.place.mesh, sent, asked)
            self.state, reduced = self.train_step(self.state, fed)
        self.feeder.read_ahead()
        stopping = self.settle()
        self.pending, self.done = (sent.numbers, reduced), sent.numbers.stop
        return stopping

    def settle(self) -> bool:
        """Wait for the dispatch under way and count it in; return whether to stop.

        All processes see the same votes after the same dispatch, so they stop at the same step.
        """
        if self.pending is None:
            return False
        (steps, reduced), self.pending = self.pending, None
        with self.timer.phase("step"):
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
        self.report["examples"] += int(rows[:, 2].sum())
        self.progress.add(steps[:good], rows, summary.speed(self.report, self.timer))
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
        with self.timer.phase("evaluate"):
            tested = self.evaluator(self.state.weights)
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
            if self.place.is_chief:
                state = jax.device_get(self.state)
                try:
                    write_json(told, diagnose(state, self.recipe.objective, self.source, number))
                except OSError as error:  # must not hide why the run ends
                    self.terminal.warn(f"{told} cannot be written ({error.strerror})")

        collectives.share(diagnosis)

        def end() -> None:
            self._finish_saves()
            raise NonFinite(
                f"step {number + 1:,}: the loss or a gradient is not finite. The state before it "
                f"is saved, {told} says more. Go on with train.on_nonfinite=skip, or begin another "
                "run (run.name=NAME) with a lower optim.lr"
            )

        collectives.share(end)

    def _check_last_update(self) -> None:
        """Look at the weights after the last step, which no further step does."""
        if not np.isfinite(self.report["test_loss"]) and self.config.train.on_nonfinite == "stop":
            raise NonFinite(
                f"step {self.done:,}, the last: its update left weights whose loss on the test "
                "images is not finite: begin another run (run.name=NAME) with a lower optim.lr"
            )

    def _finish_saves(self) -> None:
        if self.writer is not None:
            self.writer.finish_saves()

    def _count(self, steps: int) -> None:
        self.report["steps"], self.report["epochs"] = steps, steps / self.plan.steps_per_epoch

    def _reached(self, every_steps: int | None, first: int) -> bool:
        """Return whether the steps from `first` until now reach a multiple of every_steps."""
        return every_steps is not None and first // every_steps < self.done // every_steps

    def _stop(self) -> None:
        """End on all processes, saying why; the steps done are saved."""

        def end() -> None:
            self._finish_saves()
            raise Preempted(
                f"{self.stop.signal_name or 'a stop signal to another process'}: saved after step "
                f"{self.done:,}; the same command with the same run directory goes on from there"
            )

        collectives.share(end)
