"""A trained model as an ONNX file: the few operators of an MLP, written by hand.

A converter would serve any model, but no maintained one works with the versions of jax and orbax
that the trainer needs. This module needs the package onnx (the extra `onnx`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.checkpoint.load_model import Trained

OPSET = 17  # version of the operators: every runtime of the last years knows it
IR_VERSION = 8  # version of the file format that belongs to it


def build(it: Trained) -> bytes:
    """Return the file: uint8 images (batch, *it.image_shape) -> float32 logits, probabilities.

    Raises:
        ImportError: the package onnx is not installed.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights, objective = it.weights, it.objective
    pixels, classes = weights[0].kernel.shape[0], weights[-1].kernel.shape[1]
    constants: dict[str, Any] = {
        "flat": np.array([-1, pixels], np.int64),
        "mean": np.float32(objective.pixel_mean),
        "scale": np.float32(1 / objective.pixel_std),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["cast", "flat"], ["pixels"]),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
    ]
    x = "scaled"
    for i, (kernel, bias) in enumerate(weights):
        last = i == len(weights) - 1
        constants[f"layer{i}.kernel"], constants[f"layer{i}.bias"] = kernel, bias
        y = "logits" if last else f"layer{i}.sum"
        nodes += [
            helper.make_node("MatMul", [x, f"layer{i}.kernel"], [f"layer{i}.product"]),
            helper.make_node("Add", [f"layer{i}.product", f"layer{i}.bias"], [y]),
        ]
        if not last:
            x = f"layer{i}.relu"
            nodes.append(helper.make_node("Relu", [y], [x]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mlp",
        [info("images", TensorProto.UINT8, ["batch", *it.image_shape])],
        [info(name, TensorProto.FLOAT, ["batch", classes]) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    file = helper.make_model(graph, opset_imports=opset, producer_name="trainer")
    file.ir_version = IR_VERSION
    onnx.checker.check_model(file, full_check=True)
    return bytes(file.SerializeToString())


def run(file: bytes, images: Any) -> tuple[Any, Any]:
    """Return logits and probabilities from the reference implementation of ONNX, in numpy."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(onnx.load_from_string(file))
    logits, probabilities = evaluator.run(["logits", "probabilities"], {"images": images})
    return logits, probabilities
