"""A trained model as a program for other software: StableHLO and ONNX."""

from functools import partial
from typing import Any

import jax
import jax.export
import numpy as np
import numpy.typing as npt

from trainer.checkpoint.load_model import Trained
from trainer.config import user_module
from trainer.tasks.make import objective_of
from trainer.tasks.task import Weights, named_leaves, outputs_of_one

PLATFORMS = ("cpu", "cuda")
# In the text format of ONNX. Every runtime of the last years knows these versions.
ONNX = """\
<ir_version: 8, opset_import: ["" : 17], producer_name: "trainer">
mlp (uint8[batch, {shape}] image) =>
    (float[batch, {classes}] logits, float[batch, {classes}] probabilities) {{
  bytes = Cast<to = 1>(image)
  pixels = Reshape(bytes, flat)
  centred = Sub(pixels, mean)
  scaled = Mul(centred, scale)
  {layers}
  probabilities = Softmax<axis = -1>(logits)
}}
"""


def named(weights: Weights) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays under their names in the weights file: `0.kernel`, `encoder.w`."""
    leaves = named_leaves(weights).items()
    return {
        path.replace("/", ".") or "weights": np.asarray(leaf, order="C") for path, leaf in leaves
    }


def stablehlo(trained: Trained) -> bytes:
    """Return the serialized program: (weights by name, inputs by field) -> outputs by path.

    Inputs and outputs are arrays (N, ...), for any N. The weights are arguments, not constants, of
    the program.

    Raises:
        ConfigError: the user's model has something in it that cannot be exported.
    """
    structure, arrays = jax.tree.structure(trained.weights), named(trained.weights)

    def run(given: dict[str, jax.Array], inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        weights = jax.tree.unflatten(structure, [given[name] for name in arrays])
        return jax.vmap(partial(outputs_of_one, trained.task, weights))(inputs)

    # Keeps the paths of source files on this machine out of the program.
    jax.config.update("jax_traceback_in_locations_limit", 0)
    (batch,) = jax.export.symbolic_shape("batch")
    specs = {name: trained.task.example[name] for name in trained.task.inputs}
    inputs = {n: jax.ShapeDtypeStruct((batch, *x.shape), x.dtype) for n, x in specs.items()}
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in arrays.items()}
    with user_module.readable("export", trained.run.name):
        exported = jax.export.export(jax.jit(run), platforms=PLATFORMS)(shapes, inputs)
        return bytes(exported.serialize())


def onnx(trained: Trained) -> bytes:
    """Return an ONNX file of the MLP: uint8 images (batch, rows, cols) -> logits, probabilities.

    A converter would serve any model, but none that is maintained works with the versions of jax
    and orbax that the trainer needs.

    Raises:
        ImportError: the package onnx is not installed.
    """
    from onnx import checker, numpy_helper, parser

    objective, shape = objective_of(trained.record)
    layers, x = [], "scaled"
    for i in range(len(trained.weights)):
        layers.append(f"product{i} = MatMul({x}, kernel{i})")
        layers.append(f"sum{i} = Add(product{i}, bias{i})")
        layers.append(f"relu{i} = Relu(sum{i})")
        x = f"relu{i}"
    layers[-1] = layers[-1].replace(f"{x} = Relu", "logits = Identity")
    sizes = {"shape": ", ".join(map(str, shape)), "classes": objective.num_classes}
    model = parser.parse_model(ONNX.format(**sizes, layers="\n  ".join(layers)))
    constants: dict[str, Any] = {
        "flat": np.array([-1, trained.weights[0].kernel.shape[0]]),
        "mean": np.float32(objective.pixel_mean),
        "scale": np.float32(1 / objective.pixel_std),
    }
    for i, layer in enumerate(trained.weights):
        constants |= {f"kernel{i}": layer.kernel, f"bias{i}": layer.bias}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
