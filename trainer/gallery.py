"""The pictures and histograms of a run: drawn by a thread of their own, from arrays on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer import confusion, model, pictures, summaries
from trainer.datasets import Split
from trainer.evaluate import Evaluation

SAMPLES = 24  # images of the training split that are shown
WRONG = 24  # mistakes that are shown
FILTERS = 36  # units of the first layer that are shown, the first ones

Shape = tuple[int, int]  # rows and columns of an image


def samples(train: Split, shape: Shape) -> list[Any]:
    """Draw what the network learns from: the first examples of the training split."""
    images, labels = train.images[:SAMPLES].reshape(-1, *shape), train.labels[:SAMPLES]
    captions = [f"label {label}" for label in labels]
    title = f"the first of {len(train.labels):,} examples to train on"
    return [_image("digits/samples", pictures.digits(images, captions, title))]


def evaluation(
    step: int, test: Split, shape: Shape, found: Evaluation, counts: confusion.Counts
) -> list[Any]:
    """Draw what an evaluation found: the confusion matrix and the worst mistakes."""
    shares = confusion.normalized(counts)
    index = confidently_wrong(test.labels, found, WRONG)
    captions = [
        f"label {test.labels[i]}\nsaid {found.predictions[i]}, {found.confidences[i]:.1%}"
        for i in index
    ]
    digits = test.images[index].reshape(-1, *shape)
    wrong = len(test.labels) - int(np.trace(counts))
    title = f"most confidently wrong of {wrong:,} mistakes, step {step:,}"
    return [
        _image("confusion/counts", pictures.confusion_matrix(counts, f"examples, step {step:,}")),
        _image(
            "confusion/normalized",
            pictures.confusion_matrix(shares, f"share of each label, step {step:,}"),
        ),
        _image("digits/confidently_wrong", pictures.digits(digits, captions, title)),
    ]


def weights(layers: model.Weights, shape: Shape) -> list[Any]:
    """Draw the first layer's filters, and count the weights of all layers into histograms.

    Args:
        layers: numpy arrays.
        shape: of the images that enter the first layer.
    """
    kernels = np.asarray(layers[0].kernel)[:, :FILTERS].T.reshape(-1, *shape)
    drawn = [_image("filters/layer_0", pictures.filters(kernels))] if _finite(kernels) else []
    histograms = [
        summaries.histogram(f"weights/layer_{i}/{name}", np.asarray(leaf))
        for i, layer in enumerate(layers)
        for name, leaf in layer._asdict().items()
    ]
    return drawn + [found for found in histograms if found is not None]


def confidently_wrong(
    labels: npt.NDArray[np.uint8], found: Evaluation, most: int
) -> npt.NDArray[np.int64]:
    """Return the indices of at most `most` mistakes, the most confident first."""
    (wrong,) = np.nonzero(found.predictions != labels)
    order = np.argsort(-found.confidences[wrong], kind="stable")
    return wrong[order[:most]]


def _image(tag: str, drawn: Any) -> Any:
    return summaries.image(tag, pictures.png(drawn), drawn.size)


def _finite(values: npt.NDArray[np.floating[Any]]) -> bool:
    return bool(np.isfinite(values).all())
