"""Pictures of a classifier as PNG files: confusion matrix, digits, mistakes, filters.

Matplotlib draws them without pyplot: MPLBACKEND and a display do not matter, a thread may draw.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.formats import image_files

if TYPE_CHECKING:  # matplotlib takes a while to import, and only drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Counts = npt.NDArray[np.int64]  # (classes, classes): [label, prediction]
Images = npt.NDArray[np.uint8]  # (N, rows, cols), or with 1 or 3 colours; 0 to 255
Classes = npt.NDArray[np.integer[Any]]  # (N,)
Shares = npt.NDArray[np.floating[Any]]  # (N,), 0 to 1

RIGHT, WRONG = (0.13, 0.40, 0.67), (0.70, 0.09, 0.17)  # blue, red: the colour-blind see both
MOST_WITH_COUNTS = 20  # classes: with more, a cell has no room for a number
MOST_BARS = 40  # classes
MOST_MISTAKES = 20
_DPI = 100  # a point is 1.4 pixels
_SMALLEST, LARGE = 9, 12  # points: what can be read, and titles and the names of axes
_DIGITS, _FILTERS = 4, 9  # in a row: TensorBoard shows a picture as wide as four digits
_WIDTH = 560  # pixels of a row of digits
_WIDE = 0.9  # pixels of a figure, in a font of 1 point
_LONGEST = 22  # characters of a line below a digit


def confusion_counts(
    examples: Mapping[str, Any],
    predictions: Mapping[str, npt.NDArray[Any]],
    num_classes: int = 0,
) -> Counts | None:
    """Count how often a classifier took each class for each; None for other tasks.

    Args:
        examples: those with a field `label`, (N,), are examples of classes: integers from 0.
        predictions: those of a classifier have `class`, (N,), integers likewise.
        num_classes: how many classes there are, if more than occur.

    Returns:
        (C, C) int64: row l, column p holds the number of examples of class l taken for p. The sum
        is N, the diagonal holds the correct ones.
    """
    labels, classes = examples.get("label"), predictions.get("class")
    if labels is None or classes is None or labels.ndim != 1:
        return None
    labels = np.asarray(labels).astype(np.int64)
    size = max(num_classes, int(labels.max()) + 1, int(classes.max()) + 1)
    pairs = labels * size + classes.astype(np.int64)
    return np.bincount(pairs, minlength=size**2).reshape(size, size)


def names_of(counts: Counts, names: Sequence[str]) -> list[str]:
    """Return a name for each class; the number of one that has no name."""
    return [*names[: len(counts)], *map(str, range(len(names), len(counts)))]


def class_shares(counts: Counts) -> npt.NDArray[np.float64]:
    """Return (C, C) float64: the share of each prediction among the examples of a class.

    Rows add up to 1, or are NaN where a class has no examples.
    """
    examples = counts.sum(axis=1, keepdims=True)
    return counts / np.where(examples > 0, examples, np.nan)


def has_images(examples: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Return whether examples are images with labels: `image`, uint8 (N, rows, cols[, 1 or 3])."""
    image, label = examples.get("image"), examples.get("label")
    if image is None or label is None or label.ndim != 1:
        return False
    return image.dtype == np.uint8 and image_files.is_shape(image.shape[1:])


def confusion_png(
    counts: Counts, title: str, names: Sequence[str] = (), *, percent: bool = False
) -> bytes:
    """Draw a confusion matrix (C, C): the diagonal blue, mistakes red, darker where more.

    The colour of a cell is its share of its row; mistakes are few, so they count 20 times. A cell
    shows its count, or with `percent` its percentage of the row. `names` are those of classes.
    """
    classes, shares = len(counts), np.nan_to_num(class_shares(counts))
    strengths = np.where(np.eye(classes, dtype=bool), shares, np.minimum(20 * shares, 1))
    colours = np.where(np.eye(classes, dtype=bool)[..., None], RIGHT, WRONG)
    small = classes <= MOST_WITH_COUNTS
    texts = {
        at: f"{100 * shares[at]:.1f}".removesuffix(".0") if percent else str(counts[at])
        for at in (np.ndindex(counts.shape) if small else ())
    }
    cell = 456 / classes  # pixels
    if small:  # the smallest text fits
        cell = max(cell, 6 + max(map(len, texts.values())) * _WIDE * _SMALLEST)
    figure, axes = _figure(cell * classes, cell * classes, title, "predicted class", "true class")
    axes.imshow(1 - strengths[..., None] * (1 - colours))
    ticks = range(0, classes, 1 if small else classes // 10)
    named = names_of(counts, names)
    labels = [_shortened(named[i]) for i in ticks]
    axes.set_xticks(ticks, labels, rotation=90 if names else 0)
    axes.set_yticks(ticks, labels)
    for (row, col), text in texts.items():
        if counts[row, col]:
            size = min(11.0, (cell - 6) / len(text) / _WIDE)  # points: as wide as the cell at most
            ink = "white" if strengths[row, col] > 0.5 else "black"
            axes.text(col, row, text, size=size, color=ink, ha="center", va="center")
    return png(figure, tight=True)


def class_accuracy_png(counts: Counts, title: str, names: Sequence[str] = ()) -> bytes:
    """Draw the accuracy of each class as a bar: of the 40 least accurate ones, if there are more.

    Classes without examples are left out. `names` are those of classes.
    """
    accuracies = np.diagonal(class_shares(counts))
    (classes,) = np.nonzero(~np.isnan(accuracies))
    worst = classes[np.argsort(accuracies[classes], kind="stable")[:MOST_BARS]]
    shown, rows = np.sort(worst), range(len(worst))
    few = "" if len(shown) == len(classes) else f", the {len(shown)} least accurate"
    height = 22 * max(len(shown), 1)
    figure, axes = _figure(456, height, f"{title}{few}", "accuracy", "class")
    axes.barh(rows, accuracies[shown], color=RIGHT)
    axes.set(xlim=(0, 1.13), ylim=(len(shown) - 0.5, -0.5))
    axes.set_xticks((0, 0.5, 1), ("0%", "50%", "100%"))
    named = names_of(counts, names)
    axes.set_yticks(rows, [_shortened(named[i]) for i in shown])
    for row, share in zip(rows, accuracies[shown], strict=True):
        axes.text(share + 0.01, row, f"{share:.1%}", size=_SMALLEST, va="center")
    return png(figure, tight=True)


def digits_png(images: Images, captions: Sequence[str], title: str) -> bytes:
    """Draw images side by side, with a caption of two short lines at most below each."""
    count, height, width = images.shape[:3]
    side = max(height, width)
    cell_h, cell_w = round(1.45 * side), round(1.25 * side)
    coloured = images.reshape(count, height, width, *images.shape[3:] or (1,))
    coloured = coloured if coloured.shape[-1] == 3 else coloured.repeat(3, axis=-1)
    grid = _grid(coloured, _DIGITS, (cell_h, cell_w), 255)
    scaled = _WIDTH * grid.shape[0] / grid.shape[1]  # pixels
    figure = figure_of(_WIDTH, 40 + scaled)
    figure.suptitle(title if count else f"{title}: none", y=0.99, size=LARGE)
    axes = figure.add_axes((0, 0, 1, scaled / (40 + scaled)))
    axes.set_axis_off()
    axes.imshow(grid)
    for i, caption in enumerate(captions):
        x, y = (i % _DIGITS + 0.5) * cell_w, i // _DIGITS * cell_h + height
        text = "\n".join(_shortened(line) for line in caption.split("\n"))
        axes.text(x, y, text, size=_SMALLEST, ha="center", va="top")
    return png(figure)


def mistakes_png(
    images: Images,
    labels: Classes,
    predictions: Classes,
    confidences: Shares,
    after: str,
    names: Sequence[str] = (),
) -> bytes:
    """Draw the 20 mistakes of the highest confidence, the probability of a prediction."""
    named = dict(enumerate(names))
    (wrong,) = np.nonzero(predictions != labels)
    index = wrong[np.argsort(-confidences[wrong], kind="stable")[:MOST_MISTAKES]]
    captions = [
        f"label {named.get(labels[i], labels[i])}\n"
        f"predicted {named.get(predictions[i], predictions[i])}, {confidences[i]:.1%}"
        for i in index
    ]
    title = f"most confident of {len(wrong):,} mistakes {after}"
    return digits_png(images[index], captions, title)


def filters_png(kernels: npt.NDArray[np.floating[Any]]) -> bytes:
    """Draw weights (N, rows, cols) as images: blue below zero, red above.

    The weights are finite; each image is scaled by its own largest weight.
    """
    _, height, width = kernels.shape
    largest = np.abs(kernels).max(axis=(1, 2), keepdims=True, initial=1e-12)
    grid = _grid(kernels / largest, _FILTERS, (height + 2, width + 2), 0.0)
    scale = max(1, 56 // max(height, width))
    figure = figure_of(1, 1)
    large = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    figure.figimage(large, cmap="bwr", vmin=-1, vmax=1, resize=True)
    return png(figure)


def _grid(
    images: npt.NDArray[Any], columns: int, cell: tuple[int, int], background: float
) -> npt.NDArray[Any]:
    """Return one image of many (N, rows, cols, ...), each at the top of a cell (height, width)."""
    count, height, width, *colours = images.shape
    rows, left = max(1, -(-count // columns)), (cell[1] - width) // 2
    cells = np.full((rows * columns, *cell, *colours), background, images.dtype)
    cells[:count, :height, left : left + width] = images
    lines = cells.reshape(rows, columns, *cell, *colours).swapaxes(1, 2)
    return lines.reshape(rows * cell[0], columns * cell[1], *colours)


def _shortened(line: str) -> str:
    return line if len(line) <= _LONGEST else f"...{line[3 - _LONGEST :]}"


def _figure(width: float, height: float, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a figure that its axes of a size in pixels fill; `tight` makes room for the names."""
    figure = figure_of(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_title(title, size=LARGE)
    axes.set_xlabel(x, size=LARGE)
    axes.set_ylabel(y, size=LARGE)
    return figure, axes


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure of a size in pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no lines about its font cache
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / _DPI, height / _DPI), _DPI)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, *, tight: bool = False) -> bytes:
    """Return the PNG file of a figure; of what is drawn on it and beside it, if `tight`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight" if tight else None)
    return buffer.getvalue()
