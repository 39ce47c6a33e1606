"""Run this model with jax and flatbuffers: `python predict.py IMAGES.npy`, uint8 by numpy.save."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax.export
import numpy as np


def load_model(folder: Path) -> Callable[[Any], Any]:
    """Return a function: uint8 images (N, rows, cols) -> float32 (logits, probabilities)."""
    index = json.loads((folder / "model.json").read_text())
    code, data = ((folder / f).read_bytes() for f in ("model.stablehlo", "weights.safetensors"))
    for name, content in (("model.stablehlo", code), ("weights.safetensors", data)):
        if hashlib.sha256(content).hexdigest() != index["sha256"][name]:
            raise ValueError(f"{folder / name} was changed: its SHA-256 is not that in model.json")
    end = 8 + int.from_bytes(data[:8], "little")  # of the header, which follows its length
    weights = {}
    for name, array in json.loads(data[8:end]).items():
        first, last = (end + offset for offset in array["data_offsets"])
        weights[name] = np.frombuffer(data[first:last], "<f4").reshape(array["shape"])
    program = jax.jit(jax.export.deserialize(bytearray(code)).call)
    shape = tuple(index["input"]["images"]["shape"][1:])

    def run(images: Any) -> Any:
        kind, given = getattr(images, "dtype", type(images).__name__), np.shape(images)
        if kind != np.uint8 or given[1:] != shape or not given[0]:
            raise ValueError(f"images are {kind} {given}: give uint8 (N, {str(shape)[1:]}, N >= 1")
        return program(weights, images)

    return run


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        _, probabilities = load_model(Path(__file__).parent)(np.load(sys.argv[1]))
    except (OSError, EOFError, ValueError, BadZipFile) as error:  # from numpy
        sys.exit(f"{error}\n{__doc__}")
    print(*probabilities.argmax(axis=-1), sep="\n")
