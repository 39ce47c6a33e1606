"""`python -m trainer evaluate RUN`: accuracy, loss and confusion matrix of a trained model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, Preempted, writing
from trainer.job.files import to_json, write_bytes, write_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tracking.terminal import Terminal

if TYPE_CHECKING:
    from trainer.checkpoint.load_model import Trained
    from trainer.tasks.assess import Assessment

DESCRIPTION = """\
Tests the newest intact checkpoint of a run on the test images of its data set, or on those of a
folder. It prints the accuracy, the loss, a line per class and the confusion matrix, and writes all
figures as JSON and a picture of the matrix to the folder evaluation/ of the run.

It runs on the CPU, also during training, and changes no checkpoint.
"""
EPILOG = """\
exit codes:
  0   the model was tested
  65  the run has no intact checkpoint, or the test images are missing or wrong
  74  the storage is full or read-only, or does not let a checkpoint be read
  75  asked to stop
  78  RUN is not a run directory, the folder of the results cannot be written, or an option is wrong

examples:
  python -m trainer evaluate runs/mlp/first
  python -m trainer evaluate runs/mlp/first --step 938
  python -m trainer evaluate runs/mlp/first --data ~/my-digits --out my-digits-results
  python -m trainer evaluate runs/mlp/first --json | jq .accuracy
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Test the model of a run and print the results as tables or JSON."""
    parser = command_line.parser("evaluate", DESCRIPTION, EPILOG)
    command_line.add_run(parser)
    command_line.add_data(parser)
    help_ = "where to keep the picture and the JSON file (default: RUN/evaluation)"
    parser.add_argument("--out", metavar="FOLDER", type=Path, help=help_)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = command_line.parse(parser, arguments)
    terminal = Terminal()
    given = expanded(args.out, "--out").absolute() if args.out else None
    trained = command_line.open_run(args.run, args.step, terminal.warn)
    from trainer.commands import test_data

    name, split = test_data.load(trained, args.data, terminal, stop, download=True)
    if stop():
        raise Preempted("asked to stop before the model was tested")
    from trainer.checkpoint import load_model
    from trainer.tasks.assess import assess
    from trainer.tasks.pictures import confusion_png

    logits = load_model.predict(trained, split.images).logits
    assessment = assess(logits, split.labels, trained.objective)
    report = _report(trained, name, assessment)
    out = given or trained.run / "evaluation"
    stem = f"step-{trained.step}"
    if args.data:  # folders of the same name in different places have results of their own
        digest = hashlib.sha256(os.fsencode(args.data.resolve())).hexdigest()
        stem += f"-{args.data.resolve().name}-{digest[:8]}"
    title = f"step {trained.step:,}: {assessment.accuracy:.2%} of {assessment.examples:,}"
    picture = out / f"{stem}-confusion.png"
    with writing(out, hint="name a folder with --out FOLDER"):
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{stem}.json", report)
        write_bytes(picture, confusion_png(assessment.confusion, title))
    show(to_json(report, indent=2) if args.json else "\n".join(_lines(report, picture)))
    return EXIT_COMPLETED


def _report(trained: Trained, data: str, assessment: Assessment) -> dict[str, Any]:
    """Return the results as JSON; a class without examples has no accuracy."""
    confusion = assessment.confusion
    right, labels, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "run": str(trained.run),
        "step": trained.step,
        "data": data,
        "examples": assessment.examples,
        "accuracy": assessment.accuracy,
        "loss": assessment.loss,
        "classes": [
            {
                "class": index,
                "examples": int(labels[index]),
                "accuracy": float(right[index] / labels[index]) if labels[index] else None,
                "precision": float(right[index] / predicted[index]) if predicted[index] else None,
            }
            for index in range(len(confusion))
        ],
        "confusion": confusion.tolist(),
    }


def _lines(report: dict[str, Any], picture: Path) -> Iterator[str]:
    """Yield the lines for people: a summary, a table of classes, and the confusion matrix."""
    yield f"model      {printable(report['run'])}, step {report['step']:,}"
    yield f"data       {printable(report['data'])}, {report['examples']:,} test images"
    yield f"accuracy   {report['accuracy']:.2%}"
    yield f"loss       {report['loss']:.4f}"
    yield ""
    rows = [("class", "images", "accuracy", "precision", "taken for")]
    confusion = report["confusion"]
    for index, one in enumerate(report["classes"]):
        others = [(n, i) for i, n in enumerate(confusion[index]) if i != index]
        count, other = max(others, key=lambda pair: pair[0])
        shares = (one["accuracy"], one["precision"])
        accuracy, precision = ("-" if share is None else f"{share:.2%}" for share in shares)
        taken_for = f"{other} ({count:,} times)" if count else "-"
        rows.append((str(index), f"{one['examples']:,}", accuracy, precision, taken_for))
    yield from table(rows, ())
    yield ""
    yield "confusion matrix: an image of the row's class was taken for the column's"
    header = ["", *map(str, range(len(confusion)))]
    body = [[str(i), *(str(n or ".") for n in row)] for i, row in enumerate(confusion)]
    yield from table([header, *body], ())
    yield ""
    yield f"picture    {printable(str(picture))}"
