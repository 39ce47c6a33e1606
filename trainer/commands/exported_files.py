"""The files of an export, written and compared with the live model."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from trainer import bundle, card, environment, exporting, onnx_file, standalone
from trainer.assess import assess
from trainer.checkpoint import weights_sha256
from trainer.commands.testdata import TestData
from trainer.errors import TrainerError
from trainer.terminal import Terminal
from trainer.trained import Outputs, Trained, run_on

PROGRAM, WEIGHTS, ONNX = "model.stablehlo", "weights.safetensors", "model.onnx"
TOLERANCE = 1e-6
ONNX_TOLERANCE = 1e-5  # where another library multiplies the matrices
PARTS = 3  # of the work: writing, and comparing each program
CHECKED_IMAGES = 1000  # of noise, and by ONNX's reference implementation, which is slow
PACKAGES = ("python", "trainer", "jax", "jaxlib", "numpy", "safetensors", "onnx")


def write(folder: Path, trained: Trained, test: TestData | None, terminal: Terminal) -> list[str]:
    """Write all files of an export; return what was found out, in a sentence each.

    Args:
        folder: an empty one.
        trained: the model.
        test: the images to compare on; None: compare on noise.
        terminal: told of the progress.

    Raises:
        TrainerError: a file does not agree with the model.
    """
    index = _describe(trained)
    terminal.work("export", 0, PARTS, "writing the program and the weights")
    _write_model(folder, trained)
    digests = bundle.write_index(folder, index)  # which predict.py reads
    found, measured = _compare(folder, trained, test, terminal)
    terminal.work("export", PARTS, PARTS, "")
    terminal.close()
    left_out = []
    if ONNX not in digests:
        fix = "install the extra `onnx`: pip install '.[onnx]' in the checkout"
        left_out.append(f"{ONNX} was left out: {fix}")
        terminal.warn(left_out[0])
    text = card.write(
        name=index["run"],
        step=trained.step,
        record=trained.record,
        weights_sha256=index["weights_sha256"],
        shape=trained.image_shape,
        classes=trained.objective.num_classes,
        parameters=sum(array.size for layer in trained.weights for array in layer),
        measured=measured,
        checks=[*found, *left_out],
        digests=digests,
        revision=_revision(trained.run),
        versions=environment.versions(PACKAGES),
    )
    (folder / "MODEL_CARD.md").write_text(text)
    bundle.write_index(folder, index)
    return found


def _describe(trained: Trained) -> dict[str, Any]:
    """Return what model.json says besides the digests."""
    classes = trained.objective.num_classes
    return {
        "run": f"{trained.run.parent.name}/{trained.run.name}",
        "step": trained.step,
        "weights_sha256": weights_sha256(trained.weights),
        "platforms": exporting.PLATFORMS,
        "input": {"images": {"dtype": "uint8", "shape": ["batch", *trained.image_shape]}},
        "outputs": {
            name: {"dtype": "float32", "shape": ["batch", classes]}
            for name in ("logits", "probabilities")
        },
    }


def _write_model(folder: Path, trained: Trained) -> None:
    """Write the program, the weights and what runs them; ONNX where its package is installed."""
    (folder / PROGRAM).write_bytes(exporting.stablehlo(trained))
    (folder / WEIGHTS).write_bytes(save(exporting.named(trained.weights)))
    shutil.copyfile(standalone.__file__, folder / "predict.py")
    with suppress(ModuleNotFoundError):
        (folder / ONNX).write_bytes(onnx_file.build(trained))


def _compare(
    folder: Path, trained: Trained, test: TestData | None, terminal: Terminal
) -> tuple[list[str], card.Measured | None]:
    """Compare the files with the live model; say how far they are, and measure how good it is.

    Raises:
        TrainerError: a file does not agree with the model.
    """
    shape = trained.image_shape
    if test is None:
        noise = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *shape), np.uint8)
        images, kind = noise, "images of noise"
    else:
        images, kind = test.split.images.reshape(-1, *shape), f"test images of {test.name}"

    terminal.work("export", 1, PARTS, f"comparing {PROGRAM} with the live model")
    live = run_on(trained, images)
    found = [_distance(PROGRAM, standalone.load_model(folder)(images), live, TOLERANCE, kind)]
    if (folder / ONNX).exists():
        terminal.work("export", 2, PARTS, f"comparing {ONNX} with the live model")
        got = onnx_file.run((folder / ONNX).read_bytes(), images[:CHECKED_IMAGES])
        found.append(_distance(ONNX, got, live, ONNX_TOLERANCE, kind))
    if test is None:
        return found, None
    tested = assess(live.logits, test.split.labels, trained.objective)
    found.append(f"accuracy on {tested.examples:,} {kind}: {tested.accuracy:.2%}")
    return found, card.Measured(test.name, tested.examples, tested.accuracy, tested.loss)


def _distance(file: str, got: Any, live: Outputs, tolerance: float, kind: str) -> str:
    """Compare a file's outputs for the first images with the live model's; say how far they are.

    Args:
        file: its name.
        got: its logits and probabilities (N, classes).
        live: those of the model.
        tolerance: of probabilities, and of logits by the size of an image's largest.
        kind: of the images, in words.

    Raises:
        TrainerError: they are further away than the tolerance.
    """
    count = len(got[0])
    off = []
    for outputs, expected in zip(got, (part[:count] for part in live), strict=True):
        size = np.maximum(np.abs(expected).max(axis=-1, keepdims=True), 1)
        off.append(float((np.abs(np.asarray(outputs) - expected) / size).max()))
    told = (
        f"on {count:,} {kind} the probabilities of {file} differ from the live model's by at most "
        f"{off[1]:.1g}, its logits by {off[0]:.1g} of their size"
    )
    if not max(off) <= tolerance:
        raise TrainerError(f"{told}: at most {tolerance:.0e} is allowed; nothing was put in place")
    return told


def _revision(run: Path) -> str | None:
    """Return the revision of the trainer that the run's latest start has noted."""
    try:
        return str(json.loads((run / "environment.json").read_text())["git"]["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
