"""The files of an export, written and compared with the live model."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from trainer.checkpoint import checksums, load_model
from trainer.checkpoint.load_model import Outputs, Trained
from trainer.data.dataset import Split
from trainer.export import bundle, card, programs, standalone
from trainer.job import resources
from trainer.job.errors import TrainerError
from trainer.tasks.assess import assess

PROGRAM, WEIGHTS, ONNX = "model.stablehlo", "weights.safetensors", "model.onnx"
TOLERANCE = 1e-6  # relative to the largest logit of an image
ONNX_TOLERANCE = 1e-5  # another library multiplies the matrices
CHECKED_IMAGES = 1000  # of noise, or for the reference implementation of ONNX, which is slow


def write(folder: Path, trained: Trained, test: tuple[str, Split] | None) -> list[str]:
    """Write all files of an export into an empty folder, and compare them with the live model.

    They are compared on the test images, which are given with their name, or on noise where there
    are none. Returns the results, a sentence each.

    Raises:
        TrainerError: a file does not agree with the model.
    """
    shape = trained.image_shape
    output = {"dtype": "float32", "shape": ["batch", trained.objective.num_classes]}
    index: dict[str, Any] = {  # of model.json
        "run": f"{trained.run.parent.name}/{trained.run.name}",
        "step": trained.step,
        "weights_sha256": checksums.of_weights(trained.weights),
        "platforms": programs.PLATFORMS,
        "input": {"images": {"dtype": "uint8", "shape": ["batch", *shape]}},
        "outputs": {"logits": output, "probabilities": output},
    }
    (folder / PROGRAM).write_bytes(programs.stablehlo(trained))
    (folder / WEIGHTS).write_bytes(save(programs.named(trained.weights)))
    shutil.copyfile(standalone.__file__, folder / "predict.py")
    with suppress(ModuleNotFoundError):  # the package onnx is optional
        (folder / ONNX).write_bytes(programs.onnx(trained))
    digests = bundle.write_index(folder, index)  # predict.py reads it

    if test is None:
        images = np.random.default_rng(0).integers(0, 256, (CHECKED_IMAGES, *shape), np.uint8)
        kind = "images of noise"
    else:
        images, kind = test[1].images.reshape(-1, *shape), f"test images of {test[0]}"
    live = load_model.predict(trained, images)
    outputs = standalone.load_model(folder)(images)
    results = [_compare(PROGRAM, outputs, live, TOLERANCE, kind)]
    if ONNX in digests:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(str(folder / ONNX))
        outputs = evaluator.run(None, {"images": images[:CHECKED_IMAGES]})
        results.append(_compare(ONNX, outputs, live, ONNX_TOLERANCE, kind))
    else:
        hint = resources.how_to_install("onnx")
        results.append(f"{ONNX} was left out: {hint}")
    tested = assess(live.logits, test[1].labels, trained.objective) if test else None
    if tested:
        results.append(f"accuracy on {tested.examples:,} {kind}: {tested.accuracy:.2%}")
    text = card.text(trained, test and test[0], tested, index, digests, results)
    (folder / "MODEL_CARD.md").write_text(text)
    bundle.write_index(folder, index)
    return results


def _compare(file: str, outputs: Any, live: Outputs, tolerance: float, kind: str) -> str:
    """Compare the outputs of a file for the first images with those of the live model.

    Rounding moves a logit by a fraction of the largest logit of its image, and a probability by as
    much as the logits. So differences are divided by that logit (or by 1, if that is larger).

    Raises:
        TrainerError: logits or probabilities, (N, classes), are not within `tolerance`.
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
    if not all((off / size <= tolerance).all() for off in (logits, probabilities)):
        raise TrainerError(
            f"{message}: at most {tolerance:.0e} of that size is allowed; nothing was put in place"
        )
    return message
