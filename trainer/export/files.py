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
TOLERANCE = 1e-6  # of the size of an image's logits
ONNX_TOLERANCE = 1e-5  # where another library multiplies the matrices
PARTS = 3  # of the work: writing, and comparing each program
CHECKED_IMAGES = 1000  # of noise, and by ONNX's reference implementation, which is slow
PACKAGES = ("python", "trainer", "jax", "jaxlib", "numpy", "safetensors", "onnx")


class Found(NamedTuple):
    """What came out of a comparison with the live model."""

    told: list[str]  # how far the files are, in a sentence each
    left_out: list[str]  # which files were deleted, and why
    measured: card.Measured | None  # None: there were no test images


class Distance(NamedTuple):
    """How far a file's outputs are from the live model's."""

    told: str  # a sentence
    allowed: bool


def write(folder: Path, trained: Trained, test: TestData | None, terminal: Terminal) -> list[str]:
    """Write all files of an export; return what was found out, in a sentence each.

    Args:
        folder: an empty one.
        trained: the model.
        test: the images to compare on; None: compare on noise.
        terminal: told of the progress.

    Raises:
        TrainerError: the program does not agree with the model.
    """
    index = _describe(trained)
    terminal.work("export", 0, PARTS, "writing the program and the weights")
    _write_model(folder, trained)
    bundle.write_index(folder, index)  # which predict.py reads
    found = _compare(folder, trained, test, terminal)
    terminal.work("export", PARTS, PARTS, "")
    terminal.close()
    for told in found.left_out:
        terminal.warn(told)
    text = card.write(
        name=index["run"],
        step=trained.step,
        record=trained.record,
        weights_sha256=index["weights_sha256"],
        shape=trained.image_shape,
        classes=trained.objective.num_classes,
        parameters=sum(array.size for layer in trained.weights for array in layer),
        measured=found.measured,
        checks=[*found.told, *found.left_out],
        digests=bundle.write_index(folder, index),
        revision=_revision(trained.run),
        versions=environment.versions(PACKAGES),
    )
    (folder / "MODEL_CARD.md").write_text(text)
    bundle.write_index(folder, index)
    return found.told


def _describe(trained: Trained) -> dict[str, Any]:
    """Return what model.json says besides the digests."""
    classes = trained.objective.num_classes
    return {
        "run": f"{trained.run.parent.name}/{trained.run.name}",
        "step": trained.step,
        "weights_sha256": checksums.of_weights(trained.weights),
        "platforms": stablehlo.PLATFORMS,
        "input": {"images": {"dtype": "uint8", "shape": ["batch", *trained.image_shape]}},
        "outputs": {
            name: {"dtype": "float32", "shape": ["batch", classes]}
            for name in ("logits", "probabilities")
        },
    }


def _write_model(folder: Path, trained: Trained) -> None:
    """Write the program, the weights and what runs them; ONNX where its package is installed."""
    (folder / PROGRAM).write_bytes(stablehlo.stablehlo(trained))
    (folder / WEIGHTS).write_bytes(save(stablehlo.named(trained.weights)))
    shutil.copyfile(standalone.__file__, folder / "predict.py")
    with suppress(ModuleNotFoundError):
        (folder / ONNX).write_bytes(onnx_file.build(trained))


def _compare(folder: Path, trained: Trained, test: TestData | None, terminal: Terminal) -> Found:
    """Compare the files with the live model, and measure how good it is.

    An ONNX file that does not agree is deleted: the export is of use without it.

    Raises:
        TrainerError: the program does not agree with the model.
    """
    shape = trained.image_shape
    if test is None:
        noise = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *shape), np.uint8)
        images, kind = noise, "images of noise"
    else:
        images, kind = test.split.images.reshape(-1, *shape), f"test images of {test.name}"

    terminal.work("export", 1, PARTS, f"comparing {PROGRAM} with the live model")
    live = load_model.predict(trained, images)
    program = _distance(PROGRAM, standalone.load_model(folder)(images), live, TOLERANCE, kind)
    if not program.allowed:
        raise TrainerError(f"{program.told}; nothing was put in place")
    told, left_out = [program.told], []
    if not (folder / ONNX).exists():
        fix = "install the extra `onnx`: pip install '.[onnx]' in the checkout"
        left_out.append(f"{ONNX} was left out: {fix}")
    else:
        terminal.work("export", 2, PARTS, f"comparing {ONNX} with the live model")
        got = onnx_file.run((folder / ONNX).read_bytes(), images[:CHECKED_IMAGES])
        onnx = _distance(ONNX, got, live, ONNX_TOLERANCE, kind)
        if onnx.allowed:
            told.append(onnx.told)
        else:
            (folder / ONNX).unlink()
            left_out.append(f"{ONNX} was left out, use {PROGRAM}: {onnx.told}")
    if test is None:
        return Found(told, left_out, None)
    tested = assess(live.logits, test.split.labels, trained.objective)
    told.append(f"accuracy on {tested.examples:,} {kind}: {tested.accuracy:.2%}")
    measured = card.Measured(test.name, tested.examples, tested.accuracy, tested.loss)
    return Found(told, left_out, measured)


def _distance(file: str, got: Any, live: Outputs, tolerance: float, kind: str) -> Distance:
    """Compare a file's outputs for the first images with the live model's.

    Rounding moves a logit by a share of the largest of its image, and a probability by as much as
    the logits: where these are large, it is no sign of another model.

    Args:
        file: its name.
        got: its logits and probabilities (N, classes).
        live: those of the model.
        tolerance: of both, by the size of the image's largest logit or by 1.
        kind: of the images, in words.
    """
    count = len(got[0])
    logits, probabilities = (
        np.abs(np.asarray(outputs) - expected[:count])
        for outputs, expected in zip(got, live, strict=True)
    )
    size = np.maximum(np.abs(live.logits[:count]).max(axis=-1, keepdims=True), 1)
    told = (
        f"on {count:,} {kind} the probabilities of {file} differ from the live model's by at most "
        f"{probabilities.max():.2g}, its logits by {(logits / size).max():.2g} of their size"
    )
    if all((off / size <= tolerance).all() for off in (logits, probabilities)):
        return Distance(told, allowed=True)
    return Distance(f"{told}: at most {tolerance:.0e} of that size is allowed", allowed=False)


def _revision(run: Path) -> str | None:
    """Return the revision of the trainer that the run's latest start has noted."""
    try:
        return str(json.loads((run / "environment.json").read_text())["git"]["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
