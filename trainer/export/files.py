"""The files of an export, written and compared with the live model."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from trainer.checkpoint import checksums, load_model
from trainer.checkpoint.load_model import Outputs, Trained
from trainer.commands.test_data import TestData
from trainer.export import bundle, card, onnx_file, stablehlo, standalone
from trainer.job.errors import TrainerError
from trainer.tasks.assess import assess
from trainer.tracking import environment
from trainer.tracking.terminal import Terminal

PROGRAM, WEIGHTS, ONNX = "model.stablehlo", "weights.safetensors", "model.onnx"
TOLERANCE = 1e-6  # relative to the largest logit of an image
ONNX_TOLERANCE = 1e-5  # another library multiplies the matrices
PARTS = 3  # of the work, for the progress bar
CHECKED_IMAGES = 1000  # of noise, or for the reference implementation of ONNX, which is slow
PACKAGES = ("python", "trainer", "jax", "jaxlib", "numpy", "safetensors", "onnx")


class Comparison(NamedTuple):
    """How far the outputs of a file are from those of the live model."""

    message: str
    passed: bool


def write(folder: Path, trained: Trained, test: TestData | None, terminal: Terminal) -> list[str]:
    """Write all files of an export; return the results of the comparisons, a sentence each.

    Args:
        folder: an empty folder.
        trained: the model.
        test: the images to compare on; None: noise.
        terminal: shows the progress.

    Raises:
        TrainerError: the program does not agree with the model.
    """
    index = _describe(trained)
    terminal.work("export", 0, PARTS, "writing the program and the weights")
    (folder / PROGRAM).write_bytes(stablehlo.stablehlo(trained))
    (folder / WEIGHTS).write_bytes(save(stablehlo.named(trained.weights)))
    shutil.copyfile(standalone.__file__, folder / "predict.py")
    with suppress(ModuleNotFoundError):  # the package onnx is optional
        (folder / ONNX).write_bytes(onnx_file.build(trained))
    bundle.write_index(folder, index)  # predict.py reads it

    shape = trained.image_shape
    if test is None:
        images = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *shape), np.uint8)
        kind = "images of noise"
    else:
        images, kind = test.split.images.reshape(-1, *shape), f"test images of {test.name}"
    live = load_model.predict(trained, images)
    passed, left_out = _compare(folder, images, live, kind, terminal)
    measured = None
    if test is not None:
        result = assess(live.logits, test.split.labels, trained.objective)
        passed.append(f"accuracy on {result.examples:,} {kind}: {result.accuracy:.2%}")
        measured = card.Measured(test.name, result.examples, result.accuracy, result.loss)
    terminal.work("export", PARTS, PARTS, "")
    terminal.close()
    for message in left_out:
        terminal.warn(message)
    text = card.write(
        name=index["run"],
        step=trained.step,
        record=trained.record,
        weights_sha256=index["weights_sha256"],
        shape=shape,
        classes=trained.objective.num_classes,
        parameters=sum(array.size for layer in trained.weights for array in layer),
        measured=measured,
        checks=[*passed, *left_out],
        digests=bundle.write_index(folder, index),
        revision=_revision(trained.run),
        versions=environment.versions(PACKAGES),
    )
    (folder / "MODEL_CARD.md").write_text(text)
    bundle.write_index(folder, index)
    return passed


def _describe(trained: Trained) -> dict[str, Any]:
    """Return the contents of model.json, but for the digests."""
    output = {"dtype": "float32", "shape": ["batch", trained.objective.num_classes]}
    return {
        "run": f"{trained.run.parent.name}/{trained.run.name}",
        "step": trained.step,
        "weights_sha256": checksums.of_weights(trained.weights),
        "platforms": stablehlo.PLATFORMS,
        "input": {"images": {"dtype": "uint8", "shape": ["batch", *trained.image_shape]}},
        "outputs": {"logits": output, "probabilities": output},
    }


def _compare(
    folder: Path, images: Any, live: Outputs, kind: str, terminal: Terminal
) -> tuple[list[str], list[str]]:
    """Compare the files with the live model; return what agrees and what was left out.

    An ONNX file that does not agree is deleted, for the export is useful without it.

    Raises:
        TrainerError: the program does not agree.
    """
    terminal.work("export", 1, PARTS, f"comparing {PROGRAM} with the live model")
    outputs = standalone.load_model(folder)(images)
    program = _comparison(PROGRAM, outputs, live, TOLERANCE, kind)
    if not program.passed:
        raise TrainerError(f"{program.message}; nothing was put in place")
    if not (folder / ONNX).exists():
        hint = "install the extra `onnx`: pip install '.[onnx]' in the checkout"
        return [program.message], [f"{ONNX} was left out: {hint}"]
    terminal.work("export", 2, PARTS, f"comparing {ONNX} with the live model")
    outputs = onnx_file.run((folder / ONNX).read_bytes(), images[:CHECKED_IMAGES])
    onnx = _comparison(ONNX, outputs, live, ONNX_TOLERANCE, kind)
    if onnx.passed:
        return [program.message, onnx.message], []
    (folder / ONNX).unlink()
    return [program.message], [f"{ONNX} was left out, use {PROGRAM}: {onnx.message}"]


def _comparison(file: str, outputs: Any, live: Outputs, tolerance: float, kind: str) -> Comparison:
    """Compare the outputs of a file for the first images with those of the live model.

    Rounding moves a logit by a fraction of the largest logit of its image, and a probability by as
    much as the logits. So differences are divided by that logit (or by 1, if that is larger).

    Args:
        file: its name.
        outputs: its logits and probabilities, (N, classes).
        live: those of the model.
        tolerance: of both, after the division.
        kind: of the images, in words.
    """
    count = len(outputs[0])
    logits, probabilities = (
        np.abs(np.asarray(output) - expected[:count])
        for output, expected in zip(outputs, live, strict=True)
    )
    size = np.maximum(np.abs(live.logits[:count]).max(axis=-1, keepdims=True), 1)
    message = (
        f"on {count:,} {kind} the probabilities of {file} differ from the live model's by at most "
        f"{probabilities.max():.2g}, its logits by {(logits / size).max():.2g} of their size"
    )
    if all((off / size <= tolerance).all() for off in (logits, probabilities)):
        return Comparison(message, passed=True)
    return Comparison(f"{message}: at most {tolerance:.0e} of that size is allowed", passed=False)


def _revision(run: Path) -> str | None:
    """Return the revision of the source that the latest start of the run has recorded."""
    try:
        return str(json.loads((run / "environment.json").read_text())["git"]["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
