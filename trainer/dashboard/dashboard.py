"""What TensorBoard shows of a run beside its loss: layers, classes, time, memory, pictures.

Process 0 only. Curves are written at once, so that a checkpoint never comes before its curves.
A thread draws pictures and histograms, which are written when they are ready: a job that is killed
right after an evaluation loses them.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np

from trainer.config.schema import Config
from trainer.dashboard import drawing, norms
from trainer.data.dataset import Dataset
from trainer.data.stream import Superbatches, take
from trainer.job.errors import first_line
from trainer.parallel import memory
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import pictures
from trainer.tasks.task import Task, Weights
from trainer.tracking import metrics
from trainer.tracking.goodput import Ledger
from trainer.tracking.tensorboard import Tracker

MOST_DRAWINGS = 4  # that wait or are being drawn


class Dashboard(AbstractContextManager["Dashboard"]):
    """Follows one start of a run."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        task: Task,
        source: Superbatches,
        rows: int,
        tracker: Tracker,
        ledger: Ledger,
    ) -> None:
        """Start.

        Gradient norms are those of batches from `source`, computed for `rows` examples at a time.
        """
        self._dataset, self._task, self._source = dataset, task, source
        self._tracker, self._ledger, self._timer = tracker, ledger, ledger.timer
        self._every_steps = config.train.log_every_steps
        self._draw_every_epochs = config.train.pictures_every_epochs
        self._measure = CompiledFunction(norms.make(task, rows, config.model.remat), ledger.timer)
        self._last: tuple[int, dict[str, float]] | None = None  # step, timer.parts after it
        self._pool = ThreadPoolExecutor(1, "draw")
        self._drawings: list[tuple[int, Future[list[Any]]]] = []  # steps done, summaries

    def begin(self) -> None:
        """Draw examples of the inputs, at the first start of a run."""
        if self._draw_every_epochs is not None:
            self._draw(0, partial(drawing.inputs, self._dataset))

    def steps_done(self, step: int) -> None:
        """Write times and memory at log points; the results of `step` steps have arrived."""
        self._write_drawn()
        if self._last is None:  # the first steps wait for the compiler: measure from here
            self._last = step, self._timer.parts
        elif step // self._every_steps > self._last[0] // self._every_steps:
            (since, before), self._last = self._last, (step, self._timer.parts)
            parts = {name: spent - before[name] for name, spent in self._last[1].items()}
            totals = self._ledger.totals()
            seconds = totals["seconds"] | {"lost": totals["lost_seconds"]}
            sizes = {"host": memory.host_mib(), **memory.device_mib()}
            curves = {f"time/{name}_ms": 1000 * s / (step - since) for name, s in parts.items()}
            curves["time/goodput"] = totals["goodput"]
            curves |= {f"seconds/{phase}": spent for phase, spent in seconds.items()}
            curves |= {f"memory/{name}": mib for name, mib in sizes.items()}
            self._tracker.curves(step, curves)

    def evaluated(self, split: str, step: int, weights: Weights, evaluation: Evaluation) -> None:
        """Write the results of an evaluation after `step` steps; draw pictures now and then.

        `weights` are whole on a device of this process, or numpy arrays: the gradients of these,
        which devices share because they are large, are not measured.
        """
        if not self._tracker.scalars(split, step, evaluation.means):
            return  # a completed run was started again: the log has all of it
        curves: dict[str, float] = {}
        examples, class_names = self._dataset.splits[split], self._dataset.class_names
        counts = pictures.confusion_counts(examples, evaluation.predictions)
        if counts is not None:
            names = pictures.names_of(counts, class_names)
            accuracies = np.diagonal(pictures.class_shares(counts))
            curves = {
                f"{split}_class_accuracy/{name.replace('/', '_')}": float(share)
                for name, share in zip(names, accuracies, strict=True)
                if not np.isnan(share)
            }

        def draw_split() -> list[Any]:
            return drawing.evaluation(split, step, examples, evaluation, counts, class_names)

        plan, watched, every = self._source.plan, self._dataset.watched, self._draw_every_epochs
        if split != watched:  # at the end, with the watched one at the same step
            self._tracker.curves(step, curves)
            if every is not None:
                self._draw(step, draw_split)
            return
        if isinstance(jax.tree.leaves(weights)[0], np.ndarray):
            measured = norms.of_weights(weights)
        else:
            weights = jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)
            measured = self._norms(weights, step)
        self._tracker.curves(step, curves | measured)
        if every is None or (step // plan.steps_per_epoch % every and step != plan.total_steps):
            return
        host = jax.tree.map(np.array, jax.device_get(weights))  # copied: the state is donated

        def draw_all() -> list[Any]:
            contents = draw_split() + drawing.weights_of(host, self._task.filters)
            return contents + drawing.curves(metrics.read(self._tracker.log), watched, step)

        self._draw(step, draw_all)

    def __exit__(self, *_: object) -> None:
        """Write what is still being drawn."""
        self._pool.shutdown()  # waits
        self._write_drawn()

    def _norms(self, weights: Weights, step: int) -> dict[str, float]:
        """Return norms of the weights, and of the gradients with which the next step begins."""
        batch, _ = self._source.global_batch(step)
        rows = take(batch, slice(norms.MOST_EXAMPLES))
        (device,) = jax.tree.leaves(weights)[0].devices()
        measured = jax.device_get(self._measure(weights, jax.device_put(rows, device)))
        return {name: float(norm) for name, norm in measured.items()}

    def _draw(self, step: int, draw: Callable[[], list[Any]]) -> None:
        """Draw soon, in the thread; waits if many drawings do, because each holds the weights."""
        unfinished = [drawn for _, drawn in self._drawings if not drawn.done()]
        if len(unfinished) >= MOST_DRAWINGS:
            wait(unfinished[:1])
        self._drawings.append((step, self._pool.submit(draw)))

    def _write_drawn(self) -> None:
        while self._drawings and self._drawings[0][1].done():
            step, drawn = self._drawings.pop(0)
            try:
                contents = drawn.result()
            except Exception as error:  # whatever a drawing raises, training continues
                reason = first_line(error)
                self._tracker.warn(f"TensorBoard misses pictures, training continues: {reason}")
            else:
                for content in contents:
                    self._tracker.summary(step, content)
