"""`python -m trainer evaluate RUN`: loss and metrics of a trained model on test examples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.commands import arguments as command_line
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, writing
from trainer.job.files import to_json, write_bytes, write_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tracking.terminal import Terminal, metric_text

if TYPE_CHECKING:
    from trainer.tasks.pictures import Counts

DESCRIPTION = """\
Tests the newest intact checkpoint of a run on the test examples of its data set, or on the images
in a folder. It prints the loss and the metrics of the task, and writes them as JSON to the folder
evaluation/ of the run. Of a classifier it also prints a line per class and the confusion matrix,
and writes a picture of it.

It runs on the CPU, also during training, and changes no checkpoint.
"""
EPILOG = """\
exit codes:
  0   the model was tested
  65  the run has no intact checkpoint, or the test examples are missing or wrong
  74  the storage is full or read-only, or does not let a checkpoint be read
  75  asked to stop
  78  RUN is not a run directory, the folder of the results cannot be written, or an option is wrong

examples:
  python -m trainer evaluate runs/mlp/first
  python -m trainer evaluate runs/mlp/first --step 860
  python -m trainer evaluate runs/mlp/first --data ~/my-digits --out my-digits-results
  python -m trainer evaluate runs/mlp/first --json | jq .accuracy
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Test the model of a run and print the results as text or JSON."""
    parser = command_line.parser("evaluate", DESCRIPTION, EPILOG)
    command_line.add_run(parser)
    command_line.add_data(parser)
    help_ = "where to keep the picture and the JSON file (default: RUN/evaluation)"
    parser.add_argument("--out", metavar="FOLDER", type=Path, help=help_)
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    args = command_line.parse(parser, arguments)
    terminal = Terminal()
    out = expanded(args.out, "--out").absolute() if args.out else None
    trained = command_line.open_run(args.run, args.step, terminal.warn)
    from trainer.commands import test_data

    name, split = test_data.load(trained, args.data, terminal, stop, download=True)
    stop.check("before the model was tested")
    from trainer.tasks import pictures

    result = test_data.evaluate(trained, split)
    report: dict[str, Any] = {
        "run": str(trained.run),
        "step": trained.step,
        "data": name,
        "examples": result.examples,
        **result.means,
    }
    counts = pictures.confusion_counts(split, result.predictions, trained.classes or 0)
    out = out or trained.run / "evaluation"
    stem = f"step-{trained.step}"
    if args.data:  # folders of the same name in different places have results of their own
        digest = hashlib.sha256(os.fsencode(args.data.resolve())).hexdigest()
        stem += f"-{args.data.resolve().name}-{digest[:8]}"
    width = max(9, *map(len, result.means)) + 2
    lines = [
        f"model      {printable(str(trained.run))}, step {trained.step:,}",
        f"data       {printable(name)}, {result.examples:,} test examples",
        *(f"{n:{width}}{metric_text(n, mean)}" for n, mean in result.means.items()),
    ]
    picture = out / f"{stem}-confusion.png"
    with writing(out, hint="name a folder with --out FOLDER"):
        out.mkdir(parents=True, exist_ok=True)
        if counts is not None:
            names = pictures.names_of(counts, trained.class_names)
            report |= {"classes": _classes(counts, names), "confusion": counts.tolist()}
            lines += _lines_of_classes(report, pictures.MOST_WITH_COUNTS)
            lines += ["", f"picture    {printable(str(picture))}"]
            right = np.trace(counts) / result.examples
            title = f"step {trained.step:,}: {right:.2%} of {result.examples:,}"
            write_bytes(picture, pictures.confusion_png(counts, title, names))
        write_json(out / f"{stem}.json", report)
    show(to_json(report, indent=2) if args.json else "\n".join(lines))
    return EXIT_COMPLETED


def _classes(counts: Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the results of each class as JSON; one without examples has no accuracy."""
    right, labels, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return [
        {
            "class": index,
            "name": names[index],
            "examples": int(labels[index]),
            "accuracy": float(right[index] / labels[index]) if labels[index] else None,
            "precision": float(right[index] / predicted[index]) if predicted[index] else None,
        }
        for index in range(len(counts))
    ]


def _lines_of_classes(report: dict[str, Any], most: int) -> Iterator[str]:
    """Yield a table of the classes, and the confusion matrix of at most so many."""
    yield ""
    rows = [("class", "examples", "accuracy", "precision", "taken for")]
    names = [printable(one["name"]) for one in report["classes"]]
    confusion = report["confusion"]
    for index, one in enumerate(report["classes"]):
        wrong = [*confusion[index][:index], 0, *confusion[index][index + 1 :]]
        most_often = max(wrong)
        other = f"{names[wrong.index(most_often)]} ({most_often:,} times)" if most_often else "-"
        shares = (one["accuracy"], one["precision"])
        accuracy, precision = ("-" if share is None else f"{share:.2%}" for share in shares)
        rows.append((names[index], f"{one['examples']:,}", accuracy, precision, other))
    yield from table(rows, ())
    if len(confusion) <= most:
        yield ""
        yield "confusion matrix: an example of the row's class was taken for the column's"
        counts = ((str(n or ".") for n in row) for row in confusion)
        body = ([name, *row] for name, row in zip(names, counts, strict=True))
        yield from table([["", *names], *body], ())
