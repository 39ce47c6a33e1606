"""What the pictures show, read back from their pixels."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from trainer.tasks import pictures

CELL = 45.6  # pixels, of a confusion matrix of ten classes
LEFT, TOP = 80, 36
WHITE, RED, BLUE = [255, 255, 255], [255, 0, 0], [0, 0, 255]


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def corner(matrix, row, col):
    """Return the colour of a cell of a confusion matrix, near its left upper corner."""
    return matrix[round(TOP + (row + 0.1) * CELL), round(LEFT + (col + 0.1) * CELL)].tolist()


def test_a_confusion_matrix_is_blue_on_the_diagonal_and_red_at_mistakes():
    counts = np.eye(10, dtype=np.int64) * 90
    counts[3, 5] = 10
    matrix = pixels(pictures.confusion_png(counts, "step 1"))
    assert corner(matrix, 0, 0) == pytest.approx([255 * part for part in pictures.RIGHT], abs=1)
    assert corner(matrix, 0, 1) == WHITE
    red, green, blue = corner(matrix, 3, 5)  # a tenth of its row
    assert red > max(green, blue) + 60
    red, green, blue = corner(matrix, 3, 3)
    assert blue > red + 60
    percents = pixels(pictures.confusion_png(counts, "step 1", percent=True))
    assert corner(percents, 3, 5) == corner(matrix, 3, 5)
    assert (percents != matrix).any()


def test_a_long_title_large_counts_and_many_classes_fit():
    counts = np.full((10, 10), 123_456)
    matrix = pixels(pictures.confusion_png(counts, "percent of each label after 1,234,567 steps"))
    written = (matrix != 255).any(axis=-1)[:30]
    assert written.any()
    assert not written[:, :4].any()  # the title is not cut off
    assert not written[:, -4:].any()
    rows = matrix[round(TOP + 3 * CELL) : round(TOP + 4 * CELL)]
    for col in range(1, 9):  # no number reaches beyond its cell
        edge = rows[:, round(LEFT + col * CELL)]
        assert not (edge == 255).all(axis=-1).any()
    assert pixels(pictures.confusion_png(np.eye(200, dtype=np.int64), "x")).shape == (552, 550, 3)


@pytest.mark.parametrize("classes", [2, 10, 20, 200])
@pytest.mark.parametrize("count", [7, 123_456])
def test_all_texts_can_be_read(monkeypatch, classes, count):
    """At least 9 points of 1/72 inch, at 100 pixels an inch; none is larger than its cell."""
    figures = []
    monkeypatch.setattr(pictures, "png", figures.append)
    counts = np.full((classes, classes), count)
    pictures.confusion_png(counts, "x")
    pictures.confusion_png(counts, "x", percent=True)
    pictures.class_accuracy_png(counts, "x")
    pictures.digits_png(np.zeros((5, 8, 8), np.uint8), ["label 3\npredicted 5, 99.9%"] * 5, "x")
    for figure in figures:
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert len(texts) >= 3
        assert min(text.get_fontsize() for text in texts) >= 9
    assert {"predicted class", "true class"} <= {t.get_text() for t in figures[0].findobj(Text)}


def test_the_accuracy_of_each_class_is_a_bar():
    counts = np.diag([90, 50, 0, 10])
    counts[0, 1], counts[1, 0] = 10, 50  # nine tenths, half, none of none, all
    drawn = pixels(pictures.class_accuracy_png(counts, "accuracy"))
    blue = np.abs(drawn - [255 * part for part in pictures.RIGHT]).max(axis=-1) < 2
    lengths = [blue[36 + round(22 * (row + 0.5))].sum() for row in range(3)]
    np.testing.assert_allclose(np.array(lengths) / (456 / 1.13), [0.9, 0.5, 1.0], atol=0.01)
    many = pixels(pictures.class_accuracy_png(np.eye(300, dtype=np.int64), "accuracy"))
    assert many.shape[0] == 36 + 40 * 22 + 60


@pytest.mark.parametrize("colours", [1, 3])
def test_examples_in_colour(colours):
    images = np.zeros((2, 8, 8, colours), np.uint8)
    images[..., 0] = 200
    drawn = pixels(pictures.digits_png(images, ["a"] * 2, "title"))
    wanted = [200, 200, 200] if colours == 1 else [200, 0, 0]
    assert (drawn == wanted).all(axis=-1).sum() > 2 * 0.9 * (8 * 560 / 4 / 10) ** 2
    assert pictures.has_images({"image": images, "label": np.zeros(2, np.uint8)})


def test_examples_are_drawn_whole_one_beside_the_other():
    images = np.zeros((7, 28, 28), np.uint8)
    images[:, 3:5, 3:5] = 201  # a value that no other part of the picture has
    drawn = pixels(pictures.digits_png(images, ["label 3"] * 7, "title"))[..., 0]
    scale = 560 / (4 * 35)
    assert (drawn == 201).sum() == pytest.approx(7 * (2 * scale) ** 2, rel=0.2)
    assert (drawn == 0).sum() >= 7 * 0.95 * ((28 * scale) ** 2 - (2 * scale) ** 2)


@pytest.mark.parametrize("shape", [(100, 30), (6, 9)])
@pytest.mark.parametrize("wrong", [0, 1, 50])
def test_mistakes_are_drawn_however_many_there_are(shape, wrong):
    images = np.zeros((50, *shape), np.uint8)
    labels = np.zeros(50, np.uint8)
    predictions = np.where(np.arange(50) < wrong, 1, 0)
    sure = np.linspace(0, 1, 50, dtype=np.float32)
    drawn = pixels(pictures.mistakes_png(images, labels, predictions, sure, "after 1 step"))
    assert (drawn == 0).all(axis=-1).mean() == pytest.approx(0 if wrong == 0 else 0.3, abs=0.28)
    assert drawn.shape[1] == 560


def test_the_most_confident_mistakes_come_first():
    labels = np.array([1, 2, 3, 4, 5], np.uint8)
    predictions = np.array([1, 7, 7, 7, 5], np.int32)
    confidences = np.array([1, 0.3, 0.9, 0.9, 1], np.float32)
    assert pictures.most_wrong(labels, predictions, confidences, 9).tolist() == [2, 3, 1]
    assert pictures.most_wrong(labels, predictions, confidences, 1).tolist() == [2]


def test_filters_are_scaled_one_by_one_blue_below_zero_and_red_above():
    kernels = np.zeros((10, 4, 4))
    kernels[0, 0, 0], kernels[1, 0, 0] = 0.001, -50.0
    drawn = pixels(pictures.filters_png(kernels))
    cell = 14 * (4 + 2)
    assert drawn.shape == (2 * cell, 9 * cell, 3)
    assert drawn[2, 14 + 2].tolist() == RED
    assert drawn[2, cell + 14 + 2].tolist() == BLUE
    white = (drawn >= 254).all(axis=-1)
    assert white.sum() == 18 * cell**2 - 2 * 14**2


def test_no_window_is_opened_and_matplotlib_is_imported_only_to_draw():
    code = (
        "import sys, numpy; from trainer.tasks import pictures\n"
        "print('matplotlib' in sys.modules, end=' ')\n"
        "pictures.filters_png(numpy.ones((1, 2, 2)))\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    environ = {**os.environ, "MPLBACKEND": "tkagg", "DISPLAY": ""}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False True False\n", "")
