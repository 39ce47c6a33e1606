"""What the drawings show, read back from their pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer import confusion, pictures

BLUE, ORANGE = (31, 91, 163), (200, 76, 12)


def matrix_cells(image, classes):
    """Return the colour of each cell's corner, where no figure is."""
    pixels = np.asarray(image)
    cell = 40
    return pixels[62 + 3 : 62 + classes * cell : cell, 58 + 3 : 58 + classes * cell : cell].tolist()


@pytest.mark.parametrize("shares", [False, True])
def test_a_confusion_matrix_is_blue_on_the_diagonal_and_orange_where_it_is_wrong(shares):
    counts = np.array([[8, 0, 2], [0, 10, 0], [1, 0, 9]])
    values = confusion.normalized(counts) if shares else counts
    cells = matrix_cells(pictures.confusion_matrix(values, "title"), 3)
    assert tuple(cells[1][1]) == BLUE
    assert tuple(cells[0][2]) == ORANGE  # the most frequent mistake
    red, _, blue = cells[2][0]
    assert 255 > red > blue  # a rarer one: paler
    assert red > ORANGE[0]
    assert cells[0][1] == cells[1][0] == [255, 255, 255]


@pytest.mark.parametrize("classes", [2, 10, 26, 27, 256])
def test_any_number_of_classes_can_be_drawn(classes):
    image = pictures.confusion_matrix(np.eye(classes, dtype=np.int64), "title")
    assert max(image.size) < 1300
    pictures.confusion_matrix(np.zeros((classes, classes)), "nothing yet")


def test_digits_are_drawn_whole_one_beside_the_other():
    images = np.zeros((7, 28, 28), np.uint8)
    images[:, 3:5, 3:5] = 201  # a value that no other part of the drawing has
    image = np.asarray(pictures.digits(images, ["label 3\nsaid 5"] * 7, "title", columns=3))
    scale = 64 // 28
    assert (image == 201).sum() == 7 * (2 * scale) ** 2
    assert (image == 0).sum() >= 7 * ((28 * scale) ** 2 - (2 * scale) ** 2)


def test_no_digits_and_other_shapes_can_be_drawn():
    pictures.digits(np.zeros((0, 28, 28), np.uint8), [], "title")
    pictures.digits(np.zeros((1, 100, 30), np.uint8), ["caption"], "title")
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        pictures.digits(np.zeros((2, 28, 28), np.uint8), ["caption"], "title")


def test_filters_are_scaled_one_by_one_around_grey():
    kernels = np.zeros((3, 4, 4))
    kernels[0, 0, 0], kernels[1, 0, 0] = 0.001, -50.0
    image = np.asarray(pictures.filters(kernels, columns=2))
    size = 4 * 14 + 4
    assert image.shape == (2 * size, 2 * size)
    assert image[2, 2] == 255
    assert image[2, size + 2] == 1
    assert image[2 + 30, 2 + 30] == image[size + 5, 5] == 128
    assert (image[size:, size:] == 255).all()  # there is no fourth


def test_png_gives_the_same_pixels_back():
    image = pictures.confusion_matrix(np.eye(3), "title")
    read = Image.open(io.BytesIO(pictures.png(image)))
    assert np.array_equal(np.asarray(read), np.asarray(image))
