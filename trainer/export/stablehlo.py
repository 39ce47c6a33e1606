"""A trained model as files that need no trainer: a StableHLO program and its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.export
import numpy as np
import numpy.typing as npt

from trainer.checkpoint import load_model
from trainer.checkpoint.load_model import Trained
from trainer.functional import linear
from trainer.models import mlp

PLATFORMS = ("cpu", "cuda")

NamedWeights = dict[str, npt.NDArray[np.float32]]


def named(weights: mlp.Weights) -> NamedWeights:
    """Return the arrays under their names in the weights file."""
    arrays = {}
    for index, (kernel, bias) in enumerate(weights):
        arrays[f"layer{index}.kernel"] = np.ascontiguousarray(kernel)
        arrays[f"layer{index}.bias"] = np.ascontiguousarray(bias)
    return arrays


def stablehlo(it: Trained) -> bytes:
    """Return the serialized program: (weights by name, images) -> (logits, probabilities).

    The images are uint8 (N, *it.image_shape), for any N; scaling the pixels is part of the program.
    The weights are arguments, not constants, of the program.
    """
    layers = len(it.weights)

    def run(arrays: dict[str, jax.Array], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = [
            linear.Weights(arrays[f"layer{i}.kernel"], arrays[f"layer{i}.bias"])
            for i in range(layers)
        ]
        return tuple(load_model.outputs(weights, images, it.objective))

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *it.image_shape), np.uint8)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), named(it.weights))
    with _no_locations():
        exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(shapes, images)
        return bytes(exported.serialize())


@contextmanager
def _no_locations() -> Iterator[None]:
    """Keep the paths of source files on this machine out of the program."""
    limit = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)
