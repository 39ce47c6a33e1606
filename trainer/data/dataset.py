"""What is trained on: examples in memory, and the batches of them that one dispatch consumes."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Split(NamedTuple):
    """Images and their labels, C-contiguous and read-only."""

    images: Bytes  # (N, pixels), 0 to 255
    labels: Bytes  # (N,), 0 to num_classes - 1


class Dataset(NamedTuple):
    """What to train on and what to test on."""

    name: str
    train: Split
    test: Split
    sha256: str  # of the concatenated hex SHA-256 of the four plain IDX files, in order of FILES
    shape: tuple[int, int]  # rows and columns of an image


class Superbatch(NamedTuple):
    """K batches, uint8; `batch` is the global one, or the part of it that this process loads."""

    images: Any  # (K, batch, pixels)
    labels: Any  # (K, batch)
    mask: Any  # (K, batch): 1 for an example, 0 where a batch is short
