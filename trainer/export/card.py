"""MODEL_CARD.md: what an exported model is, where it is from, what it is good for and what not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SECTIONS = ("data", "model", "optim", "train", "parallel")
# Of these sections, what tells of the machine and not of the model.
LEFT_OUT = (
    *("root", "cache_dir", "mirrors", "sha256", "download", "offline_fallback"),
    *("timeout_seconds", "compilation_cache_dir"),
)

DIGITS = ("mnist", "mnist_5k")  # the data sets that are known to be of handwritten digits
USE_OF_DIGITS = """\
The model tells which digit, 0 to 9, is on a grey image of {shape} pixels, bright on black, in the
form of the data set that it was trained on.
"""
USE_OF_OTHERS = """\
The model tells which of {classes} classes, 0 to {last}, an image of {shape} pixels of one byte
belongs to, in the form of the data set that it was trained on.
"""
USE = """\
It is meant for learning, for tests of training and serving systems, and as a baseline.
"""
LIMITS_OF_DIGITS = """\
- It always answers with one of its {classes} classes, also to an image that holds no digit or
  several. A high probability is no proof: networks like this are often wrong and sure.
- It knows the handwriting of its training images. Other pens, scripts, printed digits and other
  ways of scaling and centring lower the accuracy; measure it on images of yours first.
"""
LIMITS_OF_OTHERS = """\
- It always answers with one of its {classes} classes, also to an image of none of them. A high
  probability is no proof: networks like this are often wrong and sure.
- It knows images like those it was trained on. Other sources and other ways of scaling and
  centring lower the accuracy; measure it on images of yours first.
"""
LIMITS = """\
- Nobody has examined it for uses where a mistake does harm: do not use it there.
- On another processor or in another batch size the logits differ in the last bits, which can turn
  the answer where two classes are all but equally likely.
"""


class Measured(NamedTuple):
    """What the exported model reached on a test split when it was exported."""

    name: str  # of the data
    examples: int
    accuracy: float  # 0 to 1
    loss: float


def write(
    *,
    name: str,
    step: int,
    record: Mapping[str, Any],
    weights_sha256: str,
    shape: Sequence[int],
    classes: int,
    parameters: int,
    measured: Measured | None,
    checks: Sequence[str],
    digests: Mapping[str, str],
    revision: str | None,
    versions: Mapping[str, str | None],
) -> str:
    """Return the card.

    Args:
        name: of the run.
        step: of the checkpoint.
        record: what the run kept beside the checkpoint.
        weights_sha256: over the weights' bytes, as in the run's summary.json.
        shape: of one image.
        classes: how many.
        parameters: how many numbers the weights are.
        measured: on test images; None: there were none.
        checks: what was compared with the live model, in a sentence each.
        digests: file name -> SHA-256.
        revision: of the trainer's source that trained it.
        versions: package -> version, of this export.
    """
    data = record["meaning"]["data set"]
    sizes = "-".join(
        map(str, [math.prod(shape), *record["config"]["model"]["hidden_sizes"], classes])
    )
    accuracy = record.get("test_accuracy")
    metrics = []
    if measured is not None:
        metrics.append(
            f"| {measured.name}, {measured.examples:,} test images, at the export | "
            f"{measured.accuracy:.2%} | {measured.loss:.4f} |"
        )
    if accuracy is not None:
        tested = f"{data['name']}, {data['test_examples']:,} test images, by the run"
        metrics.append(f"| {tested} | {accuracy:.2%} | |")
    digits = data["name"] in DIGITS
    use = (USE_OF_DIGITS if digits else USE_OF_OTHERS) + USE
    limits = (LIMITS_OF_DIGITS if digits else LIMITS_OF_OTHERS) + LIMITS
    size = " x ".join(map(str, shape))
    parts = [
        f"# {name}, step {step:,}",
        f"A multilayer perceptron, {sizes}, {parameters:,} parameters, float32.",
        "## Use",
        use.format(shape=size, classes=classes, last=classes - 1),
        "## Limits",
        limits.format(classes=classes),
        "## Files",
        _table(
            "file | SHA-256", [f"| `{file}` | `{digest}` |" for file, digest in digests.items()]
        ),
        f"`weights_sha256` of the run's summary.json: `{weights_sha256}`",
        f"Input `images`: uint8, N x {size}, for any N; scaling is a part of the model. "
        f"Outputs `logits` and `probabilities`: float32, N x {classes}. "
        "`python predict.py IMAGES.npy` needs jax, the numpy that it brings and flatbuffers, and "
        "refuses files that do not match model.json.",
        "Found before the files were put in place:\n\n" + "\n".join(f"- {c}" for c in checks),
        "## Data",
        f"{data['name']}: {data['train_examples']:,} images to train on, "
        f"{data['test_examples']:,} to test on. SHA-256 of its digests: `{data['sha256']}`",
        "## Metrics",
        _table("data | accuracy | loss", metrics) if metrics else "None were measured.",
        "## Configuration",
        f"```json\n{json.dumps(_configuration(record['config']), indent=2)}\n```",
        "## Versions",
        f"Trained by revision {revision or 'unknown'} of the trainer.",
        _table(
            "package | trained with | exported with",
            [
                f"| {package} | {record['versions'].get(package) or ''} | {version or ''} |"
                for package, version in versions.items()
                if version or record["versions"].get(package)
            ],
        ),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what determines the model, without what tells of the machine it was trained on."""
    chosen: dict[str, Any] = {"run": {"seed": config["run"]["seed"]}}
    for section in SECTIONS:
        chosen[section] = {k: v for k, v in config[section].items() if k not in LEFT_OUT}
    return chosen


def _table(header: str, rows: Sequence[str]) -> str:
    columns = header.count("|") + 1
    return "\n".join([f"| {header} |", "|" + "---|" * columns, *rows])
