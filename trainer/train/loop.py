"""The training loop: dispatch, evaluate and save until done.

A dispatch hands K optimizer steps to the devices at once. While they compute one dispatch, the
host fetches the metrics of the one before and sends the batches of the one after. The host waits
for the devices at the places marked WAITS, and nowhere else.
"""

import time
from collections.abc import Mapping

import jax
import numpy as np

from trainer.checkpoint import checksums
from trainer.dashboard.nonfinite import write_diagnosis
from trainer.distributed import collectives
from trainer.job.errors import EXIT_COMPLETED, NonFinite, Preempted, TrainerError
from trainer.parallel.sharding import is_whole, to_host, whole_arrays
from trainer.parallel.step import averaged
from trainer.train import feed
from trainer.train.build import Run


def train(run: Run) -> None:
    """Train until done.

    Raises:
        Preempted: stopped as asked; the steps done are saved.
        NonFinite: a loss or gradient was not finite; the state before it is saved.
        SaveError: checkpoints cannot be written any more.
    """
    plan, options = run.plan, run.config
    _report_steps(run, run.steps_done)
    run.check_stop("before training began")
    run.terminal.start(plan.total_steps, run.steps_done, plan.steps_per_epoch)
    while run.steps_done < plan.total_steps and not run.patience.ended:
        before = run.steps_done
        stop = dispatch(run)
        last, results = run.steps_done == plan.total_steps, None
        due = _are_whole_epochs(run, options.train.eval_every_epochs)
        if last or due:
            stop |= fetch_metrics(run)
            results = evaluate(run, run.dataset.watched)
            # Not what is evaluated because the run ends: it may be extended.
            if due and run.dataset.watched == "validation":
                run.patience.add(results)
                last |= run.patience.ended
        every_epochs, every_steps = options.checkpoint.every_epochs, options.checkpoint.every_steps
        save_due = _are_whole_epochs(run, every_epochs) or (
            # whether this dispatch has done, or passed, a multiple of every_steps
            every_steps is not None and before // every_steps < run.steps_done // every_steps
        )
        if last or stop or save_due:
            stop |= fetch_metrics(run)
            save(run, results)
        if stop and not last:
            if not _completes_run(run):
                _end(run, _preempted(run))
            break
    if run.patience.ended:
        run.terminal.note(f"train.stop_early: the run ends after step {run.steps_done:,}")
    # The test split once, at the end: nothing was chosen by it. The other one if the run ends
    # by train.max_seconds, or was started again after its end.
    for split in run.evaluators:
        if run.evaluated_at.get(split) != run.steps_done:
            evaluate(run, split)
    collectives.share(lambda: _finish(run))
    # WAITS for the last step, unless the evaluation already has.
    run.report["weights_sha256"] = checksums.of_weights(run.state.weights, to_host)
    if run.state.ema is not None:
        run.report["ema_sha256"] = checksums.of_weights(run.state.ema, to_host)


def dispatch(run: Run) -> bool:
    """Start the next K steps, fetch the metrics of those before; return whether to stop."""
    sent = run.feeder.take()
    steps = range(run.steps_done, run.steps_done + len(sent.lrs))
    # A copy to the device waits for the programs that were started before it. So the batches of
    # the next dispatch are sent before this one is started, unless the device is idle.
    if run.pending is not None:
        run.feeder.send_ahead()
    with run.timer.phase("step"):
        failing = run.writer is not None and run.writer.failing()
        stop_vote = run.stop() or failing or _out_of_time(run)
        run.profile.starting(steps)
        inputs = feed.inputs(run.process.mesh, sent, stop_vote)
        run.state, metrics = run.train_step(run.state, inputs)
    run.feeder.send_ahead()
    stop = fetch_metrics(run)
    run.pending, run.steps_done = (steps, metrics), steps.stop
    return stop


def fetch_metrics(run: Run) -> bool:
    """Fetch the metrics of the dispatch under way, if any; return whether to stop.

    The stop votes of all processes were added up on the devices. So all processes see the same
    sum after the same dispatch, and stop at the same step.
    """
    if run.pending is None:
        return False
    (steps, on_device), run.pending = run.pending, None
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
            run.terminal.warn(f"step {steps[bad] + 1:,} was not finite: its update is dropped")
    rows = metrics.sums.astype(np.float64)[:good]  # the last column counts examples
    run.report["examples"] += int(rows[:, -1].sum())
    run.progress.add(steps[:good], rows, run.timer.training)
    done = steps.start + good
    _report_steps(run, done)
    if run.ledger is not None:
        run.ledger.write(done)
    if run.dashboard is not None:
        run.dashboard.steps_done(done)
    if good < len(steps):
        _end_nonfinite(run, steps[good])
    return bool(metrics.stop_votes.any())


def evaluate(run: Run, split: str) -> dict[str, float]:
    """Evaluate a split, report and return the mean loss and metrics as SPLIT_NAME."""
    began = time.perf_counter()
    with run.timer.phase("evaluate"):
        weights = averaged(run.state) if run.config.ema.evaluate else run.state.weights
        if run.config.parallel.shard_state == "optimizer":  # devices share the average
            weights = whole_arrays(weights)
        result = run.evaluators[split](weights)  # WAITS for all predictions
        if split == run.dataset.watched and not is_whole(weights):
            # For the dashboard. Of a device the whole weights could be too large.
            weights = to_host(weights, keep=run.dashboard is not None)
        if run.dashboard is not None:
            run.dashboard.evaluated(split, run.steps_done, weights, result)
    run.evaluated_at[split] = run.steps_done
    results = {f"{split}_{name}": value for name, value in result.means.items()}
    run.report |= {**results, "metrics": [*result.means]}
    run.terminal.evaluation(
        run.steps_done // run.plan.steps_per_epoch,
        run.steps_done,
        run.progress.epoch["loss"],
        split,
        result.means,
        time.perf_counter() - began,
    )
    return results


def save(run: Run, results: Mapping[str, float] | None) -> None:
    """Start writing a checkpoint of the steps done, with the results of their evaluation.

    WAITS for the save before it. (For the devices only where their memory is too small for a
    second state.)
    """
    if run.writer is not None:
        progress = {**run.progress.state(), "patience": run.patience.state()}
        run.writer.save(run.steps_done, run.state, progress, results)
    if run.ledger is not None:
        run.ledger.write(run.steps_done, now=True)


def _are_whole_epochs(run: Run, every: int | None) -> bool:
    """Return whether the steps done are a multiple of `every` epochs; None: they never are."""
    return every is not None and run.steps_done % (every * run.plan.steps_per_epoch) == 0


def _out_of_time(run: Run) -> bool:
    """Return whether train.max_seconds have passed since this process started."""
    limit = run.config.train.max_seconds
    return limit is not None and run.timer.elapsed > limit


def _completes_run(run: Run) -> bool:
    """Return on all processes whether the stop that they agreed on completes the run."""
    if run.config.train.max_seconds_exit != EXIT_COMPLETED:
        return False
    asked = collectives.share(lambda: (run.stop(), _out_of_time(run)))
    signals, late = (any(each) for each in zip(*asked, strict=True))
    return late and not signals


def _preempted(run: Run) -> Preempted:
    """Return the error that says why the run stops before its end."""
    late = f"train.max_seconds={run.config.train.max_seconds:g}" if _out_of_time(run) else ""
    cause = run.stop.signal_name or late or "a stop signal to another process"
    return Preempted(f"{cause}: saved after step {run.steps_done:,}")


def _end_nonfinite(run: Run, step: int) -> None:
    """End on all processes with the state before a non-finite step saved and diagnosed."""
    run.steps_done = step  # neither this step nor those after it have changed the state
    save(run, None)
    path = run.process.directory / "nonfinite.json"
    weights = to_host(run.state.weights, keep=run.process.is_chief)
    if run.process.is_chief:
        task, seed = run.programs.task, run.config.run.seed
        write_diagnosis(path, weights, task, run.batches, step, seed, run.terminal.warn)
    _end(
        run,
        NonFinite(
            f"step {step + 1:,}: the loss or a gradient is not finite. The state before it is "
            f"saved, {path} says more",
            "continue with train.on_nonfinite=skip, or start another run (run.name=NAME) with "
            "a lower optim.lr",
        ),
    )


def _end(run: Run, error: TrainerError) -> None:
    """Raise an error on all processes once the last checkpoint is written."""

    def finish_saves() -> None:
        if run.writer is not None:
            run.writer.finish()
        raise error

    collectives.share(finish_saves)


def _finish(run: Run) -> None:
    """Wait for the last checkpoint; check the weights after the last step.

    Every other step is checked by the next one, which computes a loss with its weights.
    """
    if run.writer is not None:
        run.writer.finish()
    if not np.isfinite(run.report["test_loss"]) and run.config.train.on_nonfinite == "stop":
        raise NonFinite(
            f"step {run.steps_done:,}, the last: its update left weights whose loss on the "
            "test split is not finite",
            "start another run (run.name=NAME) with a lower optim.lr",
        )


def _report_steps(run: Run, steps: int) -> None:
    """Report the steps whose metrics have arrived."""
    epochs, skipped = steps / run.plan.steps_per_epoch, run.progress.skipped
    run.report |= {"steps": steps, "epochs": epochs, "skipped_steps": skipped}
