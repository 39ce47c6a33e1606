"""Runs this model with jax, numpy and safetensors alone: `python predict.py IMAGES.npy`."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.export
import numpy as np
from safetensors.numpy import load


def load_model(folder: Path) -> Callable[[Any], Any]:
    """Return a function: uint8 images (N, rows, cols) -> float32 (logits, probabilities)."""
    expected = json.loads((folder / "model.json").read_text())["sha256"]
    data = {
        name: (folder / name).read_bytes() for name in ("model.stablehlo", "weights.safetensors")
    }
    for name in data:
        if hashlib.sha256(data[name]).hexdigest() != expected[name]:
            sys.exit(f"{folder / name} was changed: its SHA-256 is not the one in model.json")
    program = jax.jit(jax.export.deserialize(bytearray(data["model.stablehlo"])).call)
    weights = load(data["weights.safetensors"])
    return lambda images: program(weights, images)


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f"{__doc__}\nIMAGES.npy is a file of uint8 images, as numpy.save writes it.")
    logits, probabilities = load_model(Path(__file__).parent)(np.load(sys.argv[1]))
    print(*np.argmax(probabilities, axis=-1), sep="\n")
