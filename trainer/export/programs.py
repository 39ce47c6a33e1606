"""A trained model as a program for other software: StableHLO and ONNX."""

from typing import Any

import jax
import jax.export
import numpy as np
import numpy.typing as npt

from trainer.checkpoint import load_model
from trainer.checkpoint.load_model import Trained
from trainer.functional import linear
from trainer.models import mlp

PLATFORMS = ("cpu", "cuda")
# In the text format of ONNX. Every runtime of the last years knows these versions.
ONNX = """\
<ir_version: 8, opset_import: ["" : 17], producer_name: "trainer">
mlp (uint8[batch, {shape}] images) =>
    (float[batch, {classes}] logits, float[batch, {classes}] probabilities) {{
  bytes = Cast<to = 1>(images)
  pixels = Reshape(bytes, flat)
  centred = Sub(pixels, mean)
  scaled = Mul(centred, scale)
  {layers}
  probabilities = Softmax<axis = -1>(logits)
}}
"""


def named(weights: mlp.Weights) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays under their names in the weights file."""
    return {
        f"layer{index}.{name}": np.ascontiguousarray(array)
        for index, layer in enumerate(weights)
        for name, array in layer._asdict().items()
    }


def stablehlo(it: Trained) -> bytes:
    """Return the serialized program: (weights by name, images) -> (logits, probabilities).

    The images are uint8 (N, *it.image_shape), for any N; scaling the pixels is part of the program.
    The weights are arguments, not constants, of the program.
    """

    def run(arrays: dict[str, jax.Array], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = [
            linear.Weights(arrays[f"layer{i}.kernel"], arrays[f"layer{i}.bias"])
            for i in range(len(it.weights))
        ]
        return tuple(load_model.outputs(weights, images, it.objective))

    # Keeps the paths of source files on this machine out of the program.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *it.image_shape), np.uint8)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), named(it.weights))
    exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(shapes, images)
    return bytes(exported.serialize())


def onnx(it: Trained) -> bytes:
    """Return an ONNX file: uint8 images (batch, *it.image_shape) -> float32 logits, probabilities.

    A converter would serve any model, but none that is maintained works with the versions of jax
    and orbax that the trainer needs.

    Raises:
        ImportError: the package onnx is not installed.
    """
    from onnx import checker, numpy_helper, parser

    layers, x = [], "scaled"
    for i in range(len(it.weights)):
        layers.append(f"product{i} = MatMul({x}, layer{i}_kernel)")
        layers.append(f"sum{i} = Add(product{i}, layer{i}_bias)")
        layers.append(f"relu{i} = Relu(sum{i})")
        x = f"relu{i}"
    layers[-1] = layers[-1].replace(f"{x} = Relu", "logits = Identity")
    shape, classes = ", ".join(map(str, it.image_shape)), it.objective.num_classes
    text = ONNX.format(shape=shape, classes=classes, layers="\n  ".join(layers))
    model = parser.parse_model(text)
    constants: dict[str, Any] = {
        "flat": np.array([-1, it.weights[0].kernel.shape[0]]),
        "mean": np.float32(it.objective.pixel_mean),
        "scale": np.float32(1 / it.objective.pixel_std),
        **{name.replace(".", "_"): array for name, array in named(it.weights).items()},
    }
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
