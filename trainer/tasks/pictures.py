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

from trainer.tasks import confusion

if TYPE_CHECKING:  # matplotlib takes a while to import, and only drawing needs it
    from matplotlib.figure import Figure

Images = npt.NDArray[np.uint8]  # (N, rows, cols), 0 to 255
Classes = npt.NDArray[np.integer[Any]]  # (N,)
Shares = npt.NDArray[np.floating[Any]]  # (N,), 0 to 1

RIGHT, WRONG = (0.13, 0.40, 0.67), (0.70, 0.09, 0.17)  # blue, red: the colour-blind see both
MOST_WITH_COUNTS = 20  # classes: with more, a cell has no room for a number
_DPI = 100  # a point is 1.4 pixels
_DIGITS, _FILTERS = 4, 9  # in a row: TensorBoard shows a picture as wide as four digits


def has_images(examples: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Return whether examples are grey images with labels: `image`, uint8 (N, rows, cols)."""
    image, label = examples.get("image"), examples.get("label")
    if image is None or label is None:
        return False
    return image.dtype == np.uint8 and (image.ndim, label.ndim) == (3, 1)


def confusion_png(counts: confusion.Counts, title: str, *, percent: bool = False) -> bytes:
    """Draw a confusion matrix (C, C): the diagonal blue, mistakes red, darker where more.

    The colour of a cell is its share of its row; mistakes are few, so they count 20 times. A cell
    shows its count, or with `percent` its percentage of the row.
    """
    classes, shares = len(counts), confusion.normalized(counts)
    diagonal = np.eye(classes, dtype=bool)
    strengths = np.where(diagonal, shares, np.minimum(20 * shares, 1))
    colours = np.where(diagonal[..., None], RIGHT, WRONG)
    figure = _figure(530, 560)
    axes = figure.add_axes((0.12, 0.1, 0.86, 0.84))
    axes.imshow(1 - strengths[..., None] * (1 - colours))
    small = classes <= MOST_WITH_COUNTS
    ticks = range(0, classes, 1 if small else classes // 10)
    axes.set(title=title, xlabel="prediction", ylabel="label", xticks=ticks, yticks=ticks)
    for row, col in np.argwhere(counts) if small else ():
        text = f"{100 * shares[row, col]:.1f}".removesuffix(".0")
        text = text if percent else str(counts[row, col])
        size = min(11.0, 460 / classes / len(text))  # points: as wide as the cell at most
        ink = "white" if strengths[row, col] > 0.5 else "black"
        axes.text(col, row, text, size=size, color=ink, ha="center", va="center")
    return _png(figure)


def digits_png(images: Images, captions: Sequence[str], title: str) -> bytes:
    """Draw images side by side, with a caption of two short lines at most below each."""
    count, height, width = images.shape
    side = max(height, width)
    cell_h, cell_w = round(1.45 * side), round(1.25 * side)
    grid = _grid(images, _DIGITS, (cell_h, cell_w), 255)
    scaled = 520 * grid.shape[0] / grid.shape[1]  # pixels
    figure = _figure(520, 40 + scaled)
    figure.suptitle(title if count else f"{title}: none", y=0.99)
    axes = figure.add_axes((0, 0, 1, scaled / (40 + scaled)))
    axes.set_axis_off()
    axes.imshow(grid, "gray", vmin=0, vmax=255)
    for i, caption in enumerate(captions):
        x, y = (i % _DIGITS + 0.5) * cell_w, i // _DIGITS * cell_h + height
        axes.text(x, y, caption, size=8, ha="center", va="top")
    return _png(figure)


def mistakes_png(
    images: Images, labels: Classes, predictions: Classes, confidences: Shares, after: str
) -> bytes:
    """Draw the 20 mistakes of the highest confidence, the probability of a prediction."""
    index = most_wrong(labels, predictions, confidences, 20)
    captions = [
        f"label {labels[i]}\npredicted {predictions[i]}, {confidences[i]:.1%}" for i in index
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
    figure = _figure(1, 1)
    large = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    figure.figimage(large, cmap="bwr", vmin=-1, vmax=1, resize=True)
    return _png(figure)


def _grid(
    images: npt.NDArray[Any], columns: int, cell: tuple[int, int], background: float
) -> npt.NDArray[Any]:
    """Return one image of (N, rows, cols) images, each at the top of a cell (height, width)."""
    count, height, width = images.shape
    rows, left = max(1, -(-count // columns)), (cell[1] - width) // 2
    cells = np.full((rows * columns, *cell), background, images.dtype)
    cells[:count, :height, left : left + width] = images
    return cells.reshape(rows, columns, *cell).swapaxes(1, 2).reshape(rows * cell[0], -1)


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no lines about its font cache
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width / _DPI, height / _DPI), _DPI)
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()
