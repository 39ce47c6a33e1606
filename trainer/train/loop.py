"""The training loop: dispatch, evaluate and save until done.

A dispatch hands K optimizer steps to the devices at once. While they compute one dispatch, the
host fetches the metrics of the one before and sends the batches of the one after. The host waits
for the devices at the places marked WAITS, and nowhere else.
"""

import time
from collections.abc import Mapping
from functools import partial

import jax
import numpy as np

from trainer.checkpoint import checksums
from trainer.distributed import collectives
from trainer.job.errors import EXIT_COMPLETED, NonFinite, Preempted, first_line
from trainer.job.files import write_json
from trainer.parallel.sharding import is_whole, to_host, whole_arrays
from trainer.parallel.step import StepMetrics, averaged
from trainer.train import feed
from trainer.train.build import Run
from trainer.train.nonfinite import diagnose


class TrainingLoop:
    """One process's part in a training run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.pending: tuple[range, StepMetrics] | None = None  # dispatched, metrics not fetched
        self.evaluated_at: dict[str, int] = {}  # split -> the step of its last evaluation
        self._report_steps(run.steps_done)

    def train(self) -> None:
        """Train until done.

        Raises:
            Preempted: stopped as asked; the steps done are saved.
            NonFinite: a loss or gradient was not finite; the state before it is saved.
            SaveError: checkpoints cannot be written any more.
        """
        run, plan, options = self.run, self.run.plan, self.run.config
        collectives.share(partial(run.stop.check, "before training began"))
        run.terminal.start(plan.total_steps, run.steps_done, plan.steps_per_epoch)
        while run.steps_done < plan.total_steps and not run.patience.ended:
            before = run.steps_done
            stop = self.dispatch()
            epoch, steps_into_epoch = divmod(run.steps_done, plan.steps_per_epoch)
            last, results = run.steps_done == plan.total_steps, None
            due = steps_into_epoch == 0 and epoch % options.train.eval_every_epochs == 0
            if last or due:
                stop |= self.fetch_metrics()
                results = self.evaluate(run.watched)
                # Not what is evaluated because the run ends: it may be extended.
                if due and run.watched == "validation":
                    run.patience.add(results)
                    last |= run.patience.ended
            every_epochs, every_steps = (
                options.checkpoint.every_epochs,
                options.checkpoint.every_steps,
            )
            if (
                last
                or stop
                or (every_epochs and steps_into_epoch == 0 and epoch % every_epochs == 0)
                # a multiple of every_steps lies among the steps of this dispatch
                or (every_steps and before // every_steps < run.steps_done // every_steps)
            ):
                stop |= self.fetch_metrics()
                self.save(results)
            if stop and not last and not self._is_over():
                self._end_preempted()
            if stop and not last:
                break
        if run.patience.ended:
            run.terminal.note(f"train.stop_early: the run ends after step {run.steps_done:,}")
        # The test split once, at the end: nothing was chosen by it. The other one if the run ends
        # by train.max_seconds, or was started again after its end.
        for split in run.evaluators:
            if self.evaluated_at.get(split) != run.steps_done:
                self.evaluate(split)
        collectives.share(self._finish_saves)
        collectives.share(self._check_last_update)
        # WAITS for the last step, unless the evaluation already has.
        run.report["weights_sha256"] = checksums.of_weights(run.state.weights, to_host)
        if run.state.ema is not None:
            run.report["ema_sha256"] = checksums.of_weights(run.state.ema, to_host)

    def dispatch(self) -> bool:
        """Start the next K steps, fetch the metrics of those before; return whether to stop."""
        run = self.run
        dispatch = run.feeder.take()
        # A copy to the device waits for the programs that were started before it. So the batches of
        # the next dispatch are sent before this one is started, unless the device is idle.
        if self.pending is not None:
            run.feeder.send_ahead()
        with run.timer.phase("step"):
            failing = run.writer is not None and run.writer.failing()
            stop_vote = run.stop() or failing or self._out_of_time()
            run.profile.starting(dispatch.steps)
            inputs = feed.inputs(run.process.mesh, dispatch, stop_vote)
            run.state, metrics = run.train_step(run.state, inputs)
        run.feeder.send_ahead()
        stop = self.fetch_metrics()
        self.pending, run.steps_done = (dispatch.steps, metrics), dispatch.steps.stop
        return stop

    def fetch_metrics(self) -> bool:
        """Fetch the metrics of the dispatch under way, if any; return whether to stop.

        The stop votes of all processes were added up on the devices. So all processes see the same
        sum after the same dispatch, and stop at the same step.
        """
        run = self.run
        if self.pending is None:
            return False
        (steps, on_device), self.pending = self.pending, None
        with run.timer.phase("step"):
            metrics = jax.device_get(on_device)  # WAITS for the dispatch, once in K steps
        run.profile.steps_done(steps.stop)
        good = len(steps)
        if not metrics.finite.all():
            bad = int(np.argmin(metrics.finite))
            if run.config.train.on_nonfinite == "stop":
                good = bad  # the step and all after it have changed nothing
            else:
                run.progress.skipped += int((~metrics.finite).sum())
                run.report["skipped_steps"] = run.progress.skipped
                run.terminal.warn(f"step {steps[bad] + 1:,} was not finite: its update is dropped")
        rows = metrics.sums.astype(np.float64)[:good]
        run.report["examples"] += int(rows[:, -1].sum())
        run.progress.add(steps[:good], rows, run.timer.training)
        done = steps.start + good
        self._report_steps(done)
        if run.ledger is not None:
            run.ledger.write(done)
        if run.dashboard is not None:
            run.dashboard.steps_done(done)
        if good < len(steps):
            self._end_nonfinite(steps[good])
        return bool(metrics.stop_votes.any())

    def evaluate(self, split: str) -> dict[str, float]:
        """Evaluate a split, report and return the mean loss and metrics as SPLIT_NAME."""
        run, began = self.run, time.perf_counter()
        with run.timer.phase("evaluate"):
            average = run.config.ema.evaluate
            weights = averaged(run.state) if average else run.state.weights
            if run.config.parallel.shard_state == "optimizer":  # shares the average
                weights = whole_arrays(weights)
            result = run.evaluators[split](weights)  # WAITS for all predictions
            if split == run.watched and not is_whole(weights):
                # For the dashboard. Of a device the whole weights could be too large.
                weights = to_host(weights, keep=run.dashboard is not None)
            if run.dashboard is not None:
                run.dashboard.evaluated(split, run.steps_done, weights, result)
        self.evaluated_at[split] = run.steps_done
        results = {f"{split}_{name}": value for name, value in result.means.items()}
        run.report |= results
        run.report["metrics"] = [*result.means]
        run.terminal.evaluation(
            run.steps_done // run.plan.steps_per_epoch,
            run.steps_done,
            run.progress.epoch["loss"],
            split,
            result.means,
            time.perf_counter() - began,
        )
        return results

    def save(self, results: Mapping[str, float] | None) -> None:
        """Start writing a checkpoint of the steps done, with the results of their evaluation.

        WAITS for the save before it. (For the devices only where their memory is too small for a
        second state.)
        """
        run = self.run
        if run.writer is not None:
            progress = {**run.progress.state(), "patience": run.patience.state()}
            run.writer.save(run.steps_done, run.state, progress, results)
        if run.ledger is not None:
            run.ledger.write(run.steps_done, now=True)

    def _out_of_time(self) -> bool:
        """Return whether train.max_seconds have passed since this process started."""
        limit = self.run.config.train.max_seconds
        return limit is not None and self.run.timer.elapsed > limit

    def _is_over(self) -> bool:
        """Return on all processes whether the stop that they agreed on completes the run."""
        if self.run.config.train.max_seconds_exit != EXIT_COMPLETED:
            return False
        asked = collectives.share(lambda: (self.run.stop(), self._out_of_time()))
        signals, late = (any(each) for each in zip(*asked, strict=True))
        return late and not signals

    def _end_preempted(self) -> None:
        """End on all processes with the steps done saved."""
        run = self.run
        late = f"train.max_seconds={run.config.train.max_seconds:g}" if self._out_of_time() else ""
        cause = run.stop.signal_name or late or "a stop signal to another process"

        def end() -> None:
            self._finish_saves()
            raise Preempted(f"{cause}: saved after step {run.steps_done:,}")

        collectives.share(end)

    def _end_nonfinite(self, step: int) -> None:
        """End on all processes with the state before a non-finite step saved and diagnosed."""
        run = self.run
        run.steps_done = step  # neither this step nor those after it have changed the state
        self.save(None)
        path = run.process.directory / "nonfinite.json"

        weights = to_host(run.state.weights, keep=run.process.is_chief)

        def write_diagnosis() -> None:
            if run.process.is_chief:
                try:
                    seed = run.config.run.seed
                    write_json(path, diagnose(weights, run.task, run.batches, step, seed))
                except OSError as error:  # must not hide why the run ends
                    run.terminal.warn(f"{path} cannot be written ({error.strerror})")
                except jax.errors.JaxRuntimeError as error:  # one device has too little memory
                    run.terminal.warn(f"{path} is not written: {first_line(error)}")

        def end() -> None:
            self._finish_saves()
            raise NonFinite(
                f"step {step + 1:,}: the loss or a gradient is not finite. The state before it is "
                f"saved, {path} says more",
                "continue with train.on_nonfinite=skip, or start another run (run.name=NAME) with "
                "a lower optim.lr",
            )

        collectives.share(write_diagnosis)
        collectives.share(end)

    def _check_last_update(self) -> None:
        """Check the weights after the last step: no further step computes a loss with them."""
        run = self.run
        if not np.isfinite(run.report["test_loss"]) and run.config.train.on_nonfinite == "stop":
            raise NonFinite(
                f"step {run.steps_done:,}, the last: its update left weights whose loss on the "
                "test split is not finite",
                "start another run (run.name=NAME) with a lower optim.lr",
            )

    def _finish_saves(self) -> None:
        if self.run.writer is not None:
            self.run.writer.finish()

    def _report_steps(self, steps: int) -> None:
        report, steps_per_epoch = self.run.report, self.run.plan.steps_per_epoch
        report["steps"], report["epochs"] = steps, steps / steps_per_epoch
