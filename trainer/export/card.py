"""MODEL_CARD.md: what an exported model is, where it comes from, its use and its limits."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

SECTIONS = ("data", "model", "optim", "train", "parallel")
# Options of these sections that describe the machine and not the model.
LEFT_OUT = {
    *("root", "cache_dir", "mirrors", "sha256", "download", "offline_fallback"),
    *("timeout_seconds", "compilation_cache_dir"),
}
DIGITS = ("mnist", "mnist_5k")  # data sets of handwritten digits


class Measured(NamedTuple):
    """The test results of the exported model at the time of the export."""

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
        record: of the checkpoint.
        weights_sha256: of the weights, as in summary.json of the run.
        shape: of one image.
        classes: number of classes.
        parameters: number of weights.
        measured: on test images; None: there were none.
        checks: the comparisons with the live model, a sentence each.
        digests: file name -> SHA-256.
        revision: of the source that trained the model.
        versions: package -> version, at the export.
    """
    data = record["meaning"]["data set"]
    layers = [math.prod(shape), *record["config"]["model"]["hidden_sizes"], classes]
    size = " x ".join(map(str, shape))
    metrics = []
    if measured is not None:
        source = f"{measured.name}, {measured.examples:,} test images, at the export"
        metrics.append((source, f"{measured.accuracy:.2%}", f"{measured.loss:.4f}"))
    if (accuracy := record.get("test_accuracy")) is not None:
        source = f"{data['name']}, {data['test_examples']:,} test images, by the run"
        metrics.append((source, f"{accuracy:.2%}", ""))
    trained_with = record["versions"]
    packages = [
        (package, trained_with.get(package) or "", version or "")
        for package, version in versions.items()
        if version or trained_with.get(package)
    ]
    config = {"run": {"seed": record["config"]["run"]["seed"]}} | {
        section: {k: v for k, v in record["config"][section].items() if k not in LEFT_OUT}
        for section in SECTIONS
    }
    return Template(Path(__file__).with_name("card.md").read_text()).substitute(
        _purpose(size, classes) if data["name"] not in DIGITS else _purpose_of_digits(size),
        name=name,
        step=f"{step:,}",
        layers="-".join(map(str, layers)),
        parameters=f"{parameters:,}",
        classes=classes,
        shape=size,
        weights_sha256=weights_sha256,
        files=_table(("file", "SHA-256"), [(f"`{f}`", f"`{sha}`") for f, sha in digests.items()]),
        checks="\n".join(f"- {check}" for check in checks),
        data=data["name"],
        train_examples=f"{data['train_examples']:,}",
        test_examples=f"{data['test_examples']:,}",
        data_sha256=data["sha256"],
        metrics=_table(("data", "accuracy", "loss"), metrics) if metrics else "None were measured.",
        configuration=json.dumps(config, indent=2),
        revision=revision or "unknown",
        versions=_table(("package", "trained with", "exported with"), packages),
    )


def _purpose_of_digits(size: str) -> dict[str, str]:
    return {
        "use": f"The model recognises the handwritten digit, 0 to 9, on a grey image of {size} "
        "pixels, bright on black, in the form of its training data.",
        "nothing": "an image that holds no digit or\n  several",
        "known": "the handwriting of its training images. Other pens, scripts and printed digits,",
    }


def _purpose(size: str, classes: int) -> dict[str, str]:
    return {
        "use": f"The model recognises which of {classes} classes, 0 to {classes - 1}, an image of "
        f"{size} pixels of one byte belongs to, in the form of its training data.",
        "nothing": "an image of none of them",
        "known": "images like its training images.",
    }


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])
