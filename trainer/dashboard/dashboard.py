"""What TensorBoard shows of a run beside its loss: layers, classes, time, memory, pictures.

Process 0 only. Curves are written at once, so that a checkpoint never comes before its curves.
A thread draws pictures and histograms, which are written when they are ready: a job that is killed
right after an evaluation loses them.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer.config.schema import Config
from trainer.dashboard import norms, train_and_test
from trainer.data.dataset import Dataset, Examples, first, size
from trainer.data.stream import Plan, Superbatches, take
from trainer.job.errors import first_line
from trainer.parallel import memory
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import confusion, pictures
from trainer.tasks.task import Task, Weights, named_leaves
from trainer.tracking import metrics, summaries
from trainer.tracking.goodput import Ledger, PhaseTimer
from trainer.tracking.tensorboard import Tracker

SAMPLES = 16  # training images shown
FILTERS = 36  # units of the first layer shown
BINS = 64  # of a histogram
MOST_DRAWINGS = 4  # that wait or are being drawn

Drawn = tuple[int, list[Any]]  # optimizer steps done, summaries


class Dashboard(AbstractContextManager["Dashboard"]):
    """Follows one start of a run."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        task: Task,
        watched: str,
        plan: Plan,
        source: Superbatches,
        tracker: Tracker,
        ledger: Ledger,
        timer: PhaseTimer,
        log: Path,
        *,
        rows: int,
        fresh: bool,
        warn: Callable[[str], None],
    ) -> None:
        """Start; draw examples of the inputs if this is the first start of the run (`fresh`).

        `watched` is the split that is evaluated during training. Gradient norms are those of
        batches from `source`, computed for `rows` examples at a time; `log` is the metrics.jsonl of
        the run; `warn` shows a line.
        """
        self._splits, self._task, self._source, self._plan = dataset.splits, task, source, plan
        self._watched, self._names = watched, dataset.class_names
        self._tracker, self._ledger = tracker, ledger
        self._timer, self._log, self._warn = timer, log, warn
        self._every_steps = config.train.log_every_steps
        self._draw_every_epochs = config.train.pictures_every_epochs
        self._measure = CompiledFunction(norms.make(task, rows, config.model.remat), timer)
        self._last: tuple[int, dict[str, float]] | None = None  # step, timer.parts after it
        self._pool = ThreadPoolExecutor(1, "draw")
        self._drawings: list[Future[Drawn]] = []
        if fresh and self._draw_every_epochs is not None:
            self._draw(lambda: (0, draw_inputs(dataset)))

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
        examples = self._splits[split]
        counts = confusion.of_predictions(examples, evaluation.predictions)
        if counts is not None:
            accuracies = confusion.class_accuracies(counts)
            curves = {
                f"{split}_class_accuracy/{name.replace('/', '_')}": float(share)
                for name, share in zip(
                    confusion.names_of(counts, self._names), accuracies, strict=True
                )
                if not np.isnan(share)
            }

        def draw_split() -> list[Any]:
            return draw_evaluation(split, step, examples, evaluation, counts, self._names)

        epoch, every = step // self._plan.steps_per_epoch, self._draw_every_epochs
        if split != self._watched:  # at the end, with the watched one at the same step
            self._tracker.curves(step, curves)
            if every is not None:
                self._draw(lambda: (step, draw_split()))
            return
        if isinstance(jax.tree.leaves(weights)[0], np.ndarray):
            measured = norms.of_weights(weights)
        else:
            weights = jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)
            measured = self._norms(weights, step)
        self._tracker.curves(step, curves | measured)
        if every is None or (epoch % every and step != self._plan.total_steps):
            return
        host = jax.tree.map(np.array, jax.device_get(weights))  # copied: the state is donated
        filters = self._task.filters
        self._draw(lambda: (step, draw_split() + draw_weights(host, filters) + self._curves(step)))

    def _curves(self, step: int) -> list[Any]:
        """Draw the metrics of training and of the watched split until a step."""
        log = metrics.read(self._log)
        points = [point for point in log if point["split"] in ("train", self._watched)]
        png = train_and_test.draw(points, f"until step {step:,}")
        return [summaries.image("pictures/curves", png)] if png else []

    def __exit__(self, *_: object) -> None:
        """Write what is still being drawn."""
        wait(self._drawings)
        self._write_drawn()
        self._pool.shutdown()

    def _norms(self, weights: Weights, step: int) -> dict[str, float]:
        """Return norms of the weights, and of the gradients with which the next step begins."""
        batch, _ = self._source.global_batch(step)
        rows = take(batch, slice(norms.MOST_EXAMPLES))
        (device,) = jax.tree.leaves(weights)[0].devices()
        measured = jax.device_get(self._measure(weights, jax.device_put(rows, device)))
        return {name: float(norm) for name, norm in measured.items()}

    def _draw(self, draw: Callable[[], Drawn]) -> None:
        """Draw soon, in the thread; waits if many drawings do, because each holds the weights."""
        unfinished = [drawing for drawing in self._drawings if not drawing.done()]
        if len(unfinished) >= MOST_DRAWINGS:
            wait(unfinished[:1])
        self._drawings.append(self._pool.submit(draw))

    def _write_drawn(self) -> None:
        while self._drawings and self._drawings[0].done():
            try:
                step, contents = self._drawings.pop(0).result()
            except Exception as error:  # whatever a drawing raises, training continues
                self._warn(f"TensorBoard misses pictures, training continues: {first_line(error)}")
            else:
                for content in contents:
                    self._tracker.summary(step, content)


def draw_inputs(dataset: Dataset) -> list[Any]:
    """Draw the first training examples, if they are images."""
    examples = first(dataset.train, SAMPLES)
    if not pictures.has_images(examples):
        return []
    title = f"first of {size(dataset.train):,} training examples"
    names = dict(enumerate(dataset.class_names))
    captions = [f"label {names.get(int(label), label)}" for label in examples["label"]]
    png = pictures.digits_png(examples["image"], captions, title)
    return [summaries.image("pictures/inputs", png)]


def draw_evaluation(
    split: str,
    step: int,
    examples: Examples,
    result: Evaluation,
    counts: confusion.Counts | None,
    names: Sequence[str] = (),
) -> list[Any]:
    """Draw an evaluation of a split after `step` steps; what the task does not have is left out.

    `names` are those of the classes, if they have any.
    """
    after, drawn = f"after {step:,} steps", dict[str, bytes]()
    if counts is not None:
        title = f"percent of each true class, {split} examples {after}"
        drawn["confusion_counts"] = pictures.confusion_png(
            counts, f"{split} examples {after}", names
        )
        drawn["confusion_normalized"] = pictures.confusion_png(counts, title, names, percent=True)
        drawn["class_accuracy"] = pictures.class_accuracy_png(
            counts, f"{split} accuracy {after}", names
        )
        if pictures.has_images(examples):
            classes, confidences = (result.predictions[name] for name in ("class", "confidence"))
            images, labels = examples["image"], np.asarray(examples["label"])
            drawn["most_wrong"] = pictures.mistakes_png(
                images, labels, classes, confidences, after, names
            )
    return [summaries.image(f"pictures/{split}_{name}", png) for name, png in drawn.items()]


def draw_weights(weights: Weights, filters: Callable[[Weights], Any] | None) -> list[Any]:
    """Draw the weights, numpy arrays; leaves out those that are not finite."""
    drawn = []
    if filters is not None and np.isfinite(kernels := filters(weights)[:FILTERS]).all():
        drawn.append(summaries.image("pictures/filters", pictures.filters_png(kernels)))
    return drawn + [
        summaries.histogram(f"weights/{path}", leaf.astype(np.float32).ravel(), BINS)
        for path, leaf in named_leaves(weights).items()
        if np.isfinite(leaf).all()
    ]
