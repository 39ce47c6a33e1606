"""What the drawings show, read back from their pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer.tasks import pictures


def test_digits_are_drawn_whole_one_beside_the_other():
    images = np.zeros((7, 28, 28), np.uint8)
    images[:, 3:5, 3:5] = 201  # a value that no other part of the drawing has
    image = np.asarray(pictures.digits(images, ["label 3\nsaid 5"] * 7, "title"))
    scale = 64 // 28
    assert (image == 201).sum() == 7 * (2 * scale) ** 2
    assert (image == 0).sum() >= 7 * ((28 * scale) ** 2 - (2 * scale) ** 2)


def test_no_digits_and_other_shapes_can_be_drawn():
    pictures.digits(np.zeros((0, 28, 28), np.uint8), [], "title")
    pictures.digits(np.zeros((1, 100, 30), np.uint8), ["caption"], "title")
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        pictures.digits(np.zeros((2, 28, 28), np.uint8), ["caption"], "title")


def test_filters_are_scaled_one_by_one_blue_below_zero_and_red_above():
    kernels = np.zeros((10, 4, 4))
    kernels[0, 0, 0], kernels[1, 0, 0] = 0.001, -50.0
    image = np.asarray(pictures.filters(kernels).convert("RGB")).astype(int)
    size = 4 * 14 + 4
    assert image.shape == (2 * size, 9 * size, 3)
    assert image[2, 2].tolist() == [255, 40, 40]
    assert image[2, size + 2].tolist() == [40, 40, 255]
    white = (image == 255).all(axis=-1)
    assert white.sum() == 18 * size**2 - 2 * 14**2


def test_png_keeps_sixteen_colours_as_they_are_in_few_bytes():
    kernels = np.random.default_rng(0).standard_normal((36, 28, 28))
    drawn = pictures.filters(kernels)
    data = pictures.png(drawn)
    with Image.open(io.BytesIO(data)) as read:
        assert np.array_equal(np.asarray(read.convert("RGB")), np.asarray(drawn.convert("RGB")))
    assert len(data) < 20_000
    grey = Image.fromarray(np.repeat(np.arange(16, dtype=np.uint8) * 17, 16).reshape(16, 16))
    with Image.open(io.BytesIO(pictures.png(grey))) as read:
        assert np.array_equal(np.asarray(read.convert("L")), np.asarray(grey))
