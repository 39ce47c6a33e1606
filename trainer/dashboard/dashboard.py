"""How a run develops, for TensorBoard: layers, classes, time, memory; process 0 only.

Curves are written at once, so that none that comes before a checkpoint gets lost. Pictures and
histograms are drawn by a thread and written when they are ready: what is killed in the moments
after an evaluation leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from trainer.config.schema import Config
from trainer.dashboard.background import Background
from trainer.data.dataset import Dataset, Superbatch
from trainer.data.stream import Plan, Superbatches
from trainer.models import mlp
from trainer.parallel import memory, norms
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import confusion
from trainer.tasks.classification import Objective
from trainer.tracking import goodput
from trainer.tracking.goodput import Ledger, PhaseTimer
from trainer.tracking.tensorboard import Tracker

Drawn = tuple[int, list[Any]]  # after how many steps, and the summaries


class Dashboard:
    """Follows one start of a run; the tracker writes what it finds."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        objective: Objective,
        plan: Plan,
        source: Superbatches,
        tracker: Tracker,
        ledger: Ledger,
        timer: PhaseTimer,
        *,
        fresh: bool,
        warn: Callable[[str], None],
    ) -> None:
        """Begin; a fresh run shows what it learns from.

        Args:
            config: every option.
            dataset: what is trained and tested on.
            objective: the loss and what it needs.
            plan: how many steps an epoch and the run have.
            source: of the batches.
            tracker: writes the curves and pictures.
            ledger: the goodput of the run so far.
            timer: of this process's time.
            fresh: whether this is the first start.
            warn: shows one line to the user.
        """
        self._dataset, self._source, self._plan = dataset, source, plan
        self._tracker, self._ledger = tracker, ledger
        self._timer, self._warn = timer, warn
        self._every_steps = config.train.log_every_steps
        self._classes = config.data.num_classes
        self._draw_every_epochs = config.train.pictures_every_epochs
        self._measure = CompiledFunction(norms.make(objective), timer)
        self._laps: goodput.Laps | None = None
        self._looked = 0  # the step of the last lap
        self._background: Background[Drawn] | None = Background()
        if fresh and self._draw_every_epochs is not None:
            self._draw(0, partial(_inputs, dataset))

    def settled(self, step: int) -> None:
        """Go on: `step` steps are done, and their results are here."""
        self._collect()
        if self._laps is None:  # not from the start on: the first steps wait for the compiler
            self._laps, self._looked = goodput.Laps(self._timer), step
        elif step // self._every_steps > self._looked // self._every_steps:
            split = self._laps.lap(step - self._looked)
            self._looked = step
            curves = {f"time/{name}_ms": value for name, value in split.items()}
            totals = self._ledger.totals()
            curves["time/goodput"] = totals["goodput"]
            curves |= {f"seconds/{phase}": spent for phase, spent in totals["seconds"].items()}
            curves["seconds/lost"] = totals["lost_seconds"]
            sizes = {"host": memory.host_mib(), **memory.device_mib()}
            curves |= {f"memory/{name}": mib for name, mib in sizes.items()}
            self._tracker.curves(step, curves)

    def evaluated(self, step: int, weights: mlp.Weights, found: Evaluation) -> None:
        """Show what an evaluation of the weights after `step` steps found, and the weights."""
        values = {"loss": found.loss, "accuracy": found.accuracy}
        if not self._tracker.scalars("eval", step, values):
            return  # a run that was completed is started again: all is there already
        counts = confusion.count(self._dataset.test.labels, found.predictions, self._classes)
        accuracies = confusion.class_accuracies(counts)
        curves = {
            f"eval_class_accuracy/{i}": float(share)
            for i, share in enumerate(accuracies)
            if not np.isnan(share)
        }
        mine = jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)
        self._tracker.curves(step, curves | self._norms(mine, step))
        epoch, every = step // self._plan.steps_per_epoch, self._draw_every_epochs
        if every is not None and (epoch % every == 0 or step == self._plan.total_steps):
            host = jax.tree.map(np.array, jax.device_get(mine))  # copied: the state is donated
            self._draw(step, partial(_evaluation, self._dataset, step, found, counts, host))

    def close(self) -> None:
        """Write what is still being drawn."""
        self._collect(wait=True)
        if self._background is not None:
            self._background.close()

    def __enter__(self) -> Dashboard:
        """Return the dashboard itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _norms(self, weights: mlp.Weights, step: int) -> dict[str, float]:
        """Return the norms of the weights, and of the gradient with which the next step begins."""
        batch, _ = self._source.global_batch(step)
        rows = Superbatch(*(part[: norms.MOST_EXAMPLES] for part in batch))
        (device,) = weights[0].kernel.devices()
        found = jax.device_get(self._measure(weights, jax.device_put(rows, device)))
        return {name: float(norm) for name, norm in found.items()}

    def _draw(self, step: int, draw: Callable[[], list[Any]]) -> None:
        if self._background is not None:
            self._background.submit(lambda: (step, draw()))

    def _collect(self, *, wait: bool = False) -> None:
        if self._background is None:
            return
        try:
            drawn = self._background.collect(wait=wait)
        except Exception as error:  # whatever a drawing raises, training goes on
            self._background.close()
            self._background = None
            self._warn(f"TensorBoard's pictures stop here, training goes on: {error}")
        else:
            for step, found in drawn:
                for summary in found:
                    self._tracker.summary(step, summary)


def _inputs(dataset: Dataset) -> list[Any]:
    from trainer.dashboard import pictures  # in the thread: pillow takes its time to load

    return pictures.inputs(dataset)


def _evaluation(
    dataset: Dataset, step: int, found: Evaluation, counts: confusion.Counts, weights: mlp.Weights
) -> list[Any]:
    from trainer.dashboard import pictures

    return pictures.evaluation(step, dataset, found, counts) + pictures.weights(weights, dataset)
