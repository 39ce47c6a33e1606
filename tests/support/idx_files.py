"""Folders of four IDX files, named as MNIST's, with images of random pixels."""

import struct

import numpy as np


def write(folder, train=4000, test=1000, pixels=None, seed=0):
    """Write `train` and `test` images of 28 x 28; `pixels`: one value for all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for split, count in (("train", train), ("t10k", test)):
        images = draw.integers(0, 256, (count, 28, 28), np.uint8)
        if pixels is not None:
            images[:] = pixels
        labels = draw.integers(0, 10, count, np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">{1 + array.ndim}i", 0x800 + array.ndim, *array.shape)
            (folder / f"{split}-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder
