"""Pictures of a digits task as PNG files: confusion matrix, digits, mistakes, filters.

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
from trainer.tasks import confusion

if TYPE_CHECKING:  # matplotlib takes a while to import, and only drawing needs it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Images = npt.NDArray[np.uint8]  # (N, rows, cols), or with 1 or 3 colours; 0 to 255
Classes = npt.NDArray[np.integer[Any]]  # (N,)
Shares = npt.NDArray[np.floating[Any]]  # (N,), 0 to 1

RIGHT, WRONG = (0.13, 0.40, 0.67), (0.70, 0.09, 0.17)  # blue, red: the colour-blind see both
MOST_WITH_COUNTS = 20  # classes: with more, a cell has no room for a number
MOST_BARS = 40  # classes
_DPI = 100  # a point is 1.4 pixels
_SMALLEST, LARGE = 9, 12  # points: what can be read, and titles and the names of axes
_LEFT, _BOTTOM, _TOP, _RIGHT = 80, 60, 36, 14  # pixels around axes
_CHARACTER = 9  # pixels of one in the name of a class
_DIGITS, _FILTERS = 4, 9  # in a row: TensorBoard shows a picture as wide as four digits
_WIDTH = 560  # pixels of a row of digits
_WIDE = 0.9  # pixels of a figure, in a font of 1 point
_LONGEST = 22  # characters of a line below a digit


def has_images(examples: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Return whether examples are images with labels: `image`, uint8 (N, rows, cols[, 1 or 3])."""
    image, label = examples.get("image"), examples.get("label")
    if image is None or label is None:
        return False
    is_image = image.dtype == np.uint8 and image_files.is_shape(image.shape[1:])
    return is_image and label.ndim == 1


def confusion_png(
    counts: confusion.Counts, title: str, names: Sequence[str] = (), *, percent: bool = False
) -> bytes:
    """Draw a confusion matrix (C, C): the diagonal blue, mistakes red, darker where more.

    The colour of a cell is its share of its row; mistakes are few, so they count 20 times. A cell
    shows its count, or with `percent` its percentage of the row. `names` are those of classes.
    """
    classes, shares = len(counts), np.nan_to_num(confusion.shares(counts))
    diagonal = np.eye(classes, dtype=bool)
    strengths = np.where(diagonal, shares, np.minimum(20 * shares, 1))
    colours = np.where(diagonal[..., None], RIGHT, WRONG)
    small = classes <= MOST_WITH_COUNTS
    places = np.ndindex(counts.shape) if small else ()
    texts = [
        f"{100 * shares[at]:.1f}".removesuffix(".0") if percent else str(counts[at])
        for at in places
    ]
    longest = max(map(len, texts), default=0)
    least = 6 + longest * _WIDE * _SMALLEST if small else 0
    cell = max(456 / classes, least)  # pixels: the smallest text fits
    labels = _labels(counts, names)
    upright = bool(names)
    figure, axes = _with_axes(cell * classes, cell * classes, labels, upright=upright)
    axes.imshow(1 - strengths[..., None] * (1 - colours))
    ticks = range(0, classes, 1 if small else classes // 10)
    axes.set_xticks(ticks, [labels[i] for i in ticks], rotation=90 if upright else 0)
    axes.set_yticks(ticks, [labels[i] for i in ticks])
    _name(axes, title, "predicted class", "true class")
    for row, col in np.argwhere(counts) if small else ():
        text = texts[row * classes + col]
        size = min(11.0, (cell - 6) / len(text) / _WIDE)  # points: as wide as the cell at most
        ink = "white" if strengths[row, col] > 0.5 else "black"
        axes.text(col, row, text, size=size, color=ink, ha="center", va="center")
    return png(figure)


def class_accuracy_png(counts: confusion.Counts, title: str, names: Sequence[str] = ()) -> bytes:
    """Draw the accuracy of each class as a bar: of the 40 least accurate ones, if there are more.

    Classes without examples are left out. `names` are those of classes.
    """
    accuracies = np.diagonal(confusion.shares(counts))
    (classes,) = np.nonzero(~np.isnan(accuracies))
    worst = classes[np.argsort(accuracies[classes], kind="stable")[:MOST_BARS]]
    shown = np.sort(worst)
    labels = [_labels(counts, names)[i] for i in shown]
    figure, axes = _with_axes(456, 22 * max(len(shown), 1), labels)
    rows = range(len(shown))
    axes.barh(rows, accuracies[shown], color=RIGHT)
    axes.set(xlim=(0, 1.13), ylim=(len(shown) - 0.5, -0.5), yticks=rows, yticklabels=labels)
    axes.set(xticks=(0, 0.5, 1), xticklabels=("0%", "50%", "100%"))
    few = "" if len(shown) == len(classes) else f", the {len(shown)} least accurate"
    _name(axes, f"{title}{few}", "accuracy", "class")
    for row, share in zip(rows, accuracies[shown], strict=True):
        axes.text(share + 0.01, row, f"{share:.1%}", size=_SMALLEST, va="center")
    return png(figure)


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
    index = most_wrong(labels, predictions, confidences, 20)
    captions = [
        f"label {named.get(labels[i], labels[i])}\n"
        f"predicted {named.get(predictions[i], predictions[i])}, {confidences[i]:.1%}"
        for i in index
    ]
    count = np.count_nonzero(labels != predictions)
    return digits_png(images[index], captions, f"most confident of {count:,} mistakes {after}")


def most_wrong(
    labels: Classes, predictions: Classes, confidences: Shares, most: int
) -> npt.NDArray[np.int64]:
    """Return the indices of at most `most` mistakes, the most confident first."""
    (wrong,) = np.nonzero(predictions != labels)
    order = np.argsort(-confidences[wrong], kind="stable")
    return wrong[order[:most]]


def filters_png(kernels: npt.NDArray[np.floating[Any]]) -> bytes:
    """Draw weights (N, rows, cols) as images: blue below zero, red above.

    They are finite; each image is scaled by its own largest weight.
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


def _labels(counts: confusion.Counts, names: Sequence[str]) -> list[str]:
    return [_shortened(name) for name in confusion.names_of(counts, names)]


def _with_axes(
    width: float, height: float, labels: Sequence[str], *, upright: bool = False
) -> tuple[Figure, Axes]:
    """Return a figure with axes of a size in pixels, and room for their names.

    `labels` stand at the vertical axis, and where they are `upright` at the horizontal one too.
    """
    more = _CHARACTER * max(0, max(map(len, labels), default=0) - 3)  # than a number needs
    left, bottom = _LEFT + more, _BOTTOM + (more if upright else 0)
    around = width + left + _RIGHT, height + bottom + _TOP
    figure = figure_of(*around)
    place = left / around[0], bottom / around[1], width / around[0], height / around[1]
    return figure, figure.add_axes(place)


def _name(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, size=LARGE)
    axes.set_xlabel(x, size=LARGE)
    axes.set_ylabel(y, size=LARGE)


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure of a size in pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no lines about its font cache
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / _DPI, height / _DPI), _DPI)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return the PNG file of a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
