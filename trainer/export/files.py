"""The files of an export, written and compared with the live model."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

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
    output = {"dtype": "float32", "shape": ["batch", trained.objective.num_classes]}
    index: dict[str, Any] = {  # of model.json
        "run": f"{trained.run.parent.name}/{trained.run.name}",
        "step": trained.step,
        "weights_sha256": checksums.of_weights(trained.weights),
        "platforms": stablehlo.PLATFORMS,
        "input": {"images": {"dtype": "uint8", "shape": ["batch", *trained.image_shape]}},
        "outputs": {"logits": output, "probabilities": output},
    }
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
    tested = None
    if test is not None:
        result = assess(live.logits, test.split.labels, trained.objective)
        passed.append(f"accuracy on {result.examples:,} {kind}: {result.accuracy:.2%}")
        tested = test.name, result
    terminal.work("export", PARTS, PARTS, "")
    terminal.close()
    for message in left_out:
        terminal.warn(message)
    text = card.write(
        trained,
        tested,
        name=index["run"],
        checks=[*passed, *left_out],
        weights_sha256=index["weights_sha256"],
        digests=bundle.write_index(folder, index),
        revision=_revision(trained.run),
        versions=environment.versions(PACKAGES),
    )
    (folder / "MODEL_CARD.md").write_text(text)
    bundle.write_index(folder, index)
    return passed


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
    program, agrees = _difference(PROGRAM, outputs, live, TOLERANCE, kind)
    if not agrees:
        raise TrainerError(f"{program}; nothing was put in place")
    if not (folder / ONNX).exists():
        hint = "install the extra `onnx`: pip install '.[onnx]' in the checkout"
        return [program], [f"{ONNX} was left out: {hint}"]
    terminal.work("export", 2, PARTS, f"comparing {ONNX} with the live model")
    outputs = onnx_file.run((folder / ONNX).read_bytes(), images[:CHECKED_IMAGES])
    onnx, agrees = _difference(ONNX, outputs, live, ONNX_TOLERANCE, kind)
    if agrees:
        return [program, onnx], []
    (folder / ONNX).unlink()
    return [program], [f"{ONNX} was left out, use {PROGRAM}: {onnx}"]


def _difference(
    file: str, outputs: Any, live: Outputs, tolerance: float, kind: str
) -> tuple[str, bool]:
    """Compare the outputs of a file for the first images with those of the live model.

    Rounding moves a logit by a fraction of the largest logit of its image, and a probability by as
    much as the logits. So differences are divided by that logit (or by 1, if that is larger).

    Returns a sentence, and whether logits and probabilities, (N, classes), are within `tolerance`.
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
        return message, True
    return f"{message}: at most {tolerance:.0e} of that size is allowed", False


def _revision(run: Path) -> str | None:
    """Return the revision of the source that the latest start of the run has recorded."""
    try:
        return str(json.loads((run / "environment.json").read_text())["git"]["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
