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

WHITE, RED, BLUE = [255, 255, 255], [255, 0, 0], [0, 0, 255]


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, in place of their PNG files."""
    figures = []
    monkeypatch.setattr(pictures, "png", lambda figure, **_: figures.append(figure))
    return figures


def test_a_confusion_matrix_is_blue_on_the_diagonal_and_red_at_mistakes(figures):
    counts = np.eye(10, dtype=np.int64) * 90
    counts[3, 5] = 10
    pictures.confusion_png(counts, "step 1")
    pictures.confusion_png(counts, "step 1", percent=True)
    matrix, percents = (figure.axes[0].images[0].get_array() for figure in figures)
    np.testing.assert_allclose(matrix[0, 0], pictures.RIGHT)
    np.testing.assert_array_equal(matrix[0, 1], 1)
    red, green, blue = matrix[3, 5]  # a tenth of its row
    assert red > max(green, blue) + 0.25
    red, green, blue = matrix[3, 3]
    assert blue > red + 0.25
    np.testing.assert_array_equal(percents, matrix)
    texts = [sorted({text.get_text() for text in figure.axes[0].texts}) for figure in figures]
    assert texts == [["10", "90"], ["10", "100", "90"]]


def test_a_long_title_large_counts_and_many_classes_fit():
    counts = np.full((10, 10), 123_456)
    matrix = pixels(pictures.confusion_png(counts, "percent of each label after 1,234,567 steps"))
    written = (matrix != 255).any(axis=-1)
    assert written.any()
    assert not written[[0, 1, 2, 3, -4, -3, -2, -1]].any()  # nothing is cut off
    assert not written[:, [0, 1, 2, 3, -4, -3, -2, -1]].any()
    dark = (matrix < 40).all(axis=-1)
    (top, bottom), (left, right) = (
        np.flatnonzero(dark.mean(axis=1 - axis) > 0.7)[[0, -1]] for axis in (0, 1)
    )  # the lines round the matrix
    assert right - left == pytest.approx(bottom - top, abs=2)
    cell = (right - left) / 10
    rows = matrix[round(top + 3 * cell) : round(top + 4 * cell)]
    for col in range(1, 9):  # no number reaches beyond its cell
        edge = rows[:, round(left + col * cell)]
        assert not (edge == 255).all(axis=-1).any()
    many = pixels(pictures.confusion_png(np.eye(200, dtype=np.int64), "x"))
    assert max(many.shape) < 600


@pytest.mark.parametrize("classes", [2, 10, 20, 200])
@pytest.mark.parametrize("count", [7, 123_456])
def test_all_texts_can_be_read(figures, classes, count):
    """At least 9 points of 1/72 inch, at 100 pixels an inch; none is larger than its cell."""
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


def test_the_accuracy_of_each_class_is_a_bar(figures):
    counts = np.diag([90, 50, 0, 10])
    counts[0, 1], counts[1, 0] = 10, 50  # nine tenths, half, none of none, all
    pictures.class_accuracy_png(counts, "accuracy")
    pictures.class_accuracy_png(np.eye(300, dtype=np.int64), "accuracy")
    few, many = ([bar.get_width() for bar in figure.axes[0].patches] for figure in figures)
    assert few == [0.9, 0.5, 1.0]
    assert [label.get_text() for label in figures[0].axes[0].get_yticklabels()] == ["0", "1", "3"]
    assert many == [1.0] * 40
    assert "the 40 least accurate" in figures[1].axes[0].get_title()


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


def test_the_most_confident_mistakes_come_first(figures):
    labels = np.array([1, 2, 3, 4, 5], np.uint8)
    predictions = np.array([1, 7, 7, 7, 5], np.int32)
    confidences = np.array([1, 0.3, 0.9, 0.9, 1], np.float32)
    images = np.zeros((5, 8, 8), np.uint8)
    pictures.mistakes_png(images, labels, predictions, confidences, "after 1 step")
    texts = [text.get_text().partition("\n")[0] for text in figures[0].axes[0].texts]
    assert texts == ["label 3", "label 4", "label 2"]
    assert figures[0].get_suptitle() == "most confident of 3 mistakes after 1 step"


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
