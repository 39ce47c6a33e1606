"""Pictures of digits in MNIST's form, and how far one is from another."""

import numpy as np
import pytest

from trainer.tasks import digit_pictures


def to_mnist(picture, warn=pytest.fail):  # the light on these is even
    return digit_pictures.to_mnist(picture, warn)


def read_picture(path, warn=pytest.fail):
    (digit,) = digit_pictures.read(path, (28, 28), find_digit=True, warn=warn)["image"]
    return digit


def off(a, b):
    """The mean difference of two pictures, of 255."""
    return np.abs(a.astype(float) - b).mean()


def apart(a, b):
    """The same, where one may lie a pixel beside the other: the centre of mass is rounded."""
    steps = (-1, 0, 1)
    return min(off(np.roll(a, (row, col), (0, 1)), b) for row in steps for col in steps)
