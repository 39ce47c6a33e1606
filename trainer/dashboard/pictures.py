"""The pictures and histograms of a run: drawn by a thread of their own, from arrays on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Dataset
from trainer.models import mlp
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import pictures
from trainer.tasks import pictures as confusion_picture
from trainer.tasks.confusion import Counts
from trainer.tracking import summaries
from trainer.tracking.tensorboard import summary

SAMPLES = 16  # images of the training split that are shown
WRONG = 20  # mistakes that are shown
FILTERS = 36  # units of the first layer that are shown, the first ones
BINS = 64  # of a histogram


def inputs(dataset: Dataset) -> list[Any]:
    """Draw what the network learns from: the first examples of the training split."""
    images, labels = dataset.train.images[:SAMPLES], dataset.train.labels[:SAMPLES]
    captions = [f"label {label}" for label in labels]
    title = f"the first of {len(dataset.train.labels):,} examples to train on"
    return [_image("inputs", pictures.digits(images.reshape(-1, *dataset.shape), captions, title))]


def evaluation(step: int, dataset: Dataset, found: Evaluation, counts: Counts) -> list[Any]:
    """Draw what an evaluation after `step` steps found: confusion matrices, worst mistakes."""
    test, title = dataset.test, f"after {step:,} steps"
    index = confidently_wrong(test.labels, found, WRONG)
    captions = [
        f"label {test.labels[i]}\nsaid {found.predictions[i]}, {found.confidences[i]:.1%}"
        for i in index
    ]
    wrong = len(test.labels) - int(np.trace(counts))
    digits = pictures.digits(
        test.images[index].reshape(-1, *dataset.shape),
        captions,
        f"surest of {wrong:,} mistakes {title}",
    )
    shares = confusion_picture.draw(counts, f"percent of each label, {title}", normalized=True)
    return [
        _image("confusion_counts", confusion_picture.draw(counts, f"examples, {title}")),
        _image("confusion_normalized", shares),
        _image("most_wrong", digits),
    ]


def weights(layers: mlp.Weights, dataset: Dataset) -> list[Any]:
    """Draw the first layer's filters, and count the weights of all layers into histograms.

    What is not finite is left out. The weights are numpy arrays.
    """
    kernels = np.asarray(layers[0].kernel)[:, :FILTERS].T.reshape(-1, *dataset.shape)
    drawn = [_image("filters", pictures.filters(kernels))] if np.isfinite(kernels).all() else []
    leaves = {f"weights/layer/{i}/{name}": np.asarray(leaf) for i, name, leaf in mlp.leaves(layers)}
    return drawn + [
        summary.histogram(tag, leaf.ravel(), BINS)
        for tag, leaf in leaves.items()
        if np.isfinite(leaf).all()
    ]


def confidently_wrong(
    labels: npt.NDArray[np.uint8], found: Evaluation, most: int
) -> npt.NDArray[np.int64]:
    """Return the indices of at most `most` mistakes, the most confident first."""
    (wrong,) = np.nonzero(found.predictions != labels)
    order = np.argsort(-found.confidences[wrong], kind="stable")
    return wrong[order[:most]]


def _image(name: str, drawn: Any) -> Any:
    return summaries.image(f"pictures/{name}", pictures.png(drawn), drawn.size)
