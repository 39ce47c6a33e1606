"""The files of an export, written and compared with the live model."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from trainer.checkpoint import checksums, load_model
from trainer.checkpoint.load_model import Arrays, Trained
from trainer.commands import test_data
from trainer.data.dataset import Examples, size
from trainer.export import FORMAT, INDEX, card, programs, standalone
from trainer.job import resources
from trainer.job.errors import TrainerError
from trainer.job.files import write_json
from trainer.tracking.terminal import metric_text

PROGRAM, WEIGHTS, ONNX = "model.stablehlo", "weights.safetensors", "model.onnx"
TOLERANCE = 1e-6  # of float32, relative to the largest output of an example
ONNX_TOLERANCE = 1e-5  # another library multiplies the matrices
TIES = 1e-3  # of whole numbers: the share that may differ, such as the index of one of two maxima
FEW = 1000  # examples: random ones, or for the reference implementation of ONNX, which is slow


def write(folder: Path, trained: Trained, test: tuple[str, Examples] | None) -> list[str]:
    """Write all files of an export into an empty folder, and compare them with the live model.

    They are compared on the test examples, which are given with the name of their data set, or on
    random ones where there are none. Returns the results, a sentence each.

    Raises:
        ConfigError: the user's model has something in it that cannot be exported.
        TrainerError: a file does not agree with the model.
    """
    inputs = {name: trained.task.example[name] for name in trained.task.inputs}
    index: dict[str, Any] = {  # of model.json
        "run": f"{trained.run.parent.name}/{trained.run.name}",
        "step": trained.step,
        "weights_sha256": checksums.of_weights(trained.weights),
        "platforms": programs.PLATFORMS,
        "jax": f">={'.'.join(map(str, standalone.OLDEST_JAX))}",
        "inputs": _described(inputs),
        "outputs": _described(trained.outputs),
    }
    if trained.classes is not None:
        index["class_names"] = trained.class_names
    if trained.columns is not None:
        index["columns"] = trained.record["columns"]
    is_mlp = "objective" in trained.record
    if is_mlp:  # part of the program, but of no weight: other programs need it
        scaling = {name: trained.record["objective"][name] for name in ("pixel_mean", "pixel_std")}
        index["pixels"] = scaling
    (folder / PROGRAM).write_bytes(programs.stablehlo(trained))
    (folder / WEIGHTS).write_bytes(save(programs.named(trained.weights)))
    shutil.copyfile(standalone.__file__, folder / "predict.py")
    with suppress(ModuleNotFoundError):  # the package onnx is optional
        if is_mlp:
            (folder / ONNX).write_bytes(programs.onnx(trained))
    digests = _write_index(folder, index)  # predict.py reads it

    if test is None:
        examples, kind = _random(inputs, trained), "random examples"
    else:
        examples, kind = load_model.checked(trained, test[1]), f"test examples of {test[0]}"
    program = standalone.load_model(folder)
    results = [_compare(PROGRAM, program, trained, examples, TOLERANCE, kind)]
    if ONNX in digests:
        from onnx.reference import ReferenceEvaluator

        evaluator, names = ReferenceEvaluator(str(folder / ONNX)), list(trained.outputs)

        def run(part: Examples) -> Arrays:
            return dict(zip(names, evaluator.run(names, part), strict=True))

        few = {name: array[:FEW] for name, array in examples.items()}
        results.append(_compare(ONNX, run, trained, few, ONNX_TOLERANCE, kind))
    elif is_mlp:
        hint = resources.how_to_install("onnx")
        results.append(f"{ONNX} was left out: {hint}")
    else:
        results.append(f"{ONNX} was left out: there is no converter for this model")
    tested = test_data.evaluate(trained, test[1]) if test else None
    if tested:
        means = [f"{name} {metric_text(name, x)}" for name, x in tested.means.items()]
        results.append(f"on {tested.examples:,} {kind}: {', '.join(means)}")
    text = card.text(trained, test and test[0], tested, index, digests, results)
    (folder / "MODEL_CARD.md").write_text(text)
    _write_index(folder, index)
    return results


def _write_index(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Write the index: a description, and the SHA-256 of all other files by name; return these."""
    files = sorted(path for path in folder.iterdir() if path.name != INDEX)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    write_json(folder / INDEX, {"format": FORMAT, **description, "sha256": digests})
    return digests


def _described(specs: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of model.json for shapes and dtypes of ONE example."""
    return {
        name: {"dtype": str(spec.dtype), "shape": ["batch", *spec.shape]}
        for name, spec in specs.items()
    }


def _random(inputs: dict[str, Any], trained: Trained) -> Examples:
    """Return examples by chance: normal numbers, the pixels of images, else whole numbers 0 or 1.

    With those every token and class is a valid one; of a category with one value only 0 is.
    """
    chance, examples = np.random.default_rng(0), {}
    categories = trained.columns.categories if trained.columns else {}
    for name, spec in inputs.items():
        shape = (FEW, *spec.shape)
        if _is_float(spec.dtype):
            examples[name] = chance.standard_normal(shape).astype(spec.dtype)
        else:
            is_image = spec.dtype == np.uint8 and len(spec.shape) > 1
            end = 256 if is_image else min(2, len(categories.get(name, "01")))
            examples[name] = chance.integers(0, end, shape).astype(spec.dtype)
    return examples


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))  # numpy's knows no bfloat16


def _compare(
    file: str,
    run: Callable[[Examples], Any],
    trained: Trained,
    examples: Examples,
    tolerance: float,
    kind: str,
) -> str:
    """Compare the outputs of a file with those of the live model.

    Returns the largest differences, in a sentence.

    Raises:
        TrainerError: outputs are not within `tolerance`, or more than a few whole numbers differ.
    """
    live, count = load_model.program(trained), size(examples)
    parts = load_model.parts(trained, examples)
    differences = [_differences(run(part), live(part)) for part in parts]
    worst = {name: float(np.max([one[name] for one in differences])) for name in trained.outputs}
    text = ", ".join(f"{name} by at most {value:.2g}" for name, value in worst.items())
    message = f"on {count:,} {kind} the outputs of {file} differ from the live model's: {text}"
    dtypes = [x.dtype for x in (*jax.tree.leaves(trained.weights), *trained.outputs.values())]
    steps = [jnp.finfo(x).eps for x in dtypes if _is_float(x)]  # type: ignore[no-untyped-call]
    for name, output in trained.outputs.items():
        limit = max(tolerance, 8 * float(max(steps))) if _is_float(output.dtype) else TIES
        if not worst[name] <= limit:  # also where it is NaN
            raise TrainerError(f"{message}; {limit:.0e} is allowed; nothing was put in place")
    return message


def _differences(outputs: Arrays, expected: Arrays) -> dict[str, float]:
    """Return by how much outputs (N, ...) differ, each at the worst of its elements.

    Rounding moves a logit by a fraction of the largest logit of its example, and a probability by
    as much as the logits. So differences are divided by the largest output of the example (or by
    1, if that is larger). Of whole numbers, it is the share that differs.
    """
    largest: Any = 1.0
    rows = size(expected)
    floats = {
        name: np.asarray(array, "f8").reshape(rows, -1)
        for name, array in expected.items()
        if _is_float(array.dtype)
    }
    for array in floats.values():
        finite = np.where(np.isfinite(array), np.abs(array), 0)
        largest = np.maximum(largest, finite.max(axis=1, keepdims=True, initial=1.0))
    result = {name: np.mean(outputs[name] != array) for name, array in expected.items()}
    for name, array in floats.items():
        output = np.asarray(outputs[name], "f8").reshape(rows, -1)
        same = (output == array) | (np.isnan(output) & np.isnan(array))  # also infinities
        with np.errstate(invalid="ignore"):
            difference = np.abs(output - array) / largest
        result[name] = np.max(difference, initial=0, where=~same)
    return {name: float(value) for name, value in result.items()}
