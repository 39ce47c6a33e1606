"""`python -m trainer predict RUN FILE ...`: what a model gives for the examples in files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trainer.commands import arguments as command_line
from trainer.formats import idx, tables
from trainer.job.directory import expanded
from trainer.job.errors import (
    EXIT_COMPLETED,
    EXIT_DATA,
    DataError,
    first_line,
    writing,
)
from trainer.job.files import to_json, write_bytes
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tasks import digit_pictures, pictures
from trainer.tracking.terminal import Terminal

if TYPE_CHECKING:
    from trainer.checkpoint.load_model import Arrays, Trained
    from trainer.data.dataset import Examples

Sources = Sequence[tuple[Path, int | None]]  # of each example: its file, and its place in it

DIGITS = ("mnist", "mnist_5k")  # data sets whose images have the form of MNIST's
MOST_SHOWN = 100  # images in a picture
FEW = 8  # elements of an output that are shown
DESCRIPTION = """\
Prints what a trained model gives for the examples in files, by the newest intact checkpoint of a
run: of a classifier the classes, of other models their outputs.

An .npz file holds an array (N, ...) for each field that the model reads, under its name, an .npy
file that of the one field. Other files are read by the function `read` of the user's module.
Without one, runs on data=table read CSV and Parquet files with the columns of training (the label
may be missing), and runs on data=text read any file, in windows as in training.

Models of images also read IDX files, plain or gzip, and pictures: PNG or JPEG files of the size of
the images that the model was trained on, which are taken as they are. Of a run on MNIST they show
one digit each, of any size and colours, dark on light or light on dark, transparent or not: a
picture that is not in the form of MNIST's digits is converted to it: bright on black, scaled to
20 x 20 pixels, centred by its mass in 28 x 28. For other runs, --find-digit asks for that. --show
FILE draws what the model saw.
"""
EPILOG = """\
exit codes:
  0   all files were read
  65  a file could not be read (it is named, the others are done), or no checkpoint is intact
  74  the storage does not let a checkpoint be read, or the output cannot be written
  75  asked to stop
  78  RUN is not a run directory, or an option is wrong

examples:
  python -m trainer predict runs/mlp/first seven.png photos/*.jpg
  python -m trainer predict runs/mlp/first photos/*.jpg --show seen.png
  python -m trainer predict runs/mlp/first t10k-images-idx3-ubyte.gz
  python -m trainer predict runs/mlp/first seven.png --json | jq '.predictions[].probabilities'
  python -m trainer predict runs/prices/first houses.npz --out prices.npz
  python -m trainer predict runs/houses/first new.csv
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Print what the model gives for each file, as a table or JSON; return the exit code.

    Raises:
        ConfigError: an option is wrong, or there is no such run.
        DataError: the run has no intact checkpoint.
        Preempted: asked to stop.
        SaveError: --out cannot be written.
    """
    parser = command_line.parser("predict", DESCRIPTION, EPILOG)
    command_line.add_run(parser)
    help_ = "an .npz or .npy file, or one that the task reads: PNG, JPEG, IDX, CSV, Parquet, text"
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help=help_)
    parser.add_argument("--json", action="store_true", help="print JSON, with all outputs")
    help_ = "write all outputs to this .npz file, as arrays (N, ...), instead of the table"
    parser.add_argument("--out", metavar="FILE", type=Path, help=help_)
    help_ = "draw the images that the model saw, and its answers, into this PNG file"
    parser.add_argument("--show", metavar="FILE", type=Path, help=help_)
    help_ = "convert pictures of one digit to the form of MNIST's, as is done for runs on MNIST"
    parser.add_argument("--find-digit", action="store_true", help=help_)
    args = command_line.parse(parser, arguments)
    out = expanded(args.out, "--out") if args.out else None
    seen = expanded(args.show, "--show") if args.show else None
    terminal = Terminal()
    trained = command_line.open_run(args.run, args.step, terminal.warn)

    find_digit = args.find_digit or trained.dataset["name"] in DIGITS
    sources: list[tuple[Path, int | None]] = []
    parts: list[Examples] = []
    errors: list[dict[str, str]] = []
    for file in args.files:
        try:
            parts.append(_read(file, trained, terminal.warn, find_digit=find_digit))
        except DataError as error:
            errors.append({"file": str(file), "error": str(error)})
            terminal.error(printable(str(error)))
        else:
            count = len(parts[-1][trained.task.inputs[0]])
            sources += [(file, index if count > 1 else None) for index in range(count)]
        stop.check("before all files were read")
    outputs: Arrays = {}
    if parts:
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        outputs = trained.predict(joined)
    labels = [printable(str(file) if i is None else f"{file}[{i}]") for file, i in sources]
    if out is not None and parts:
        with writing(out, hint="name another file with --out FILE"):
            write_bytes(out, _npz(sources, outputs))
    is_image = digit_pictures.is_image(trained.task.example, trained.task.inputs)
    if seen is not None and not is_image:
        terminal.warn(f"--show: no images: the model reads {', '.join(trained.task.inputs)}")
    elif seen is not None and parts:
        with writing(seen, hint="name another file with --show FILE"):
            write_bytes(seen, _drawn(joined["image"], labels, outputs, trained))
        terminal.note(f"what the model saw is drawn in {printable(str(seen))}")
    if args.json:
        report = {"run": str(trained.run), "step": trained.step}
        predictions = [*_as_json(sources, outputs, trained)]
        show(to_json({**report, "predictions": predictions, "errors": errors}, indent=2))
    elif parts and out is not None:
        show(f"outputs for {len(sources):,} examples in {printable(str(out))}")
    elif parts:
        cells = zip(["file", *labels], _cells(outputs, trained), strict=True)
        show("\n".join(table([(label, *row) for label, row in cells], left=(0, 3))))
    return EXIT_DATA if errors else EXIT_COMPLETED


def _read(
    file: Path, trained: Trained, warn: Callable[[str], None], *, find_digit: bool
) -> Examples:
    """Return the examples in a file: the fields that the model reads.

    `find_digit` says whether pictures of a digit get MNIST's form.

    Raises:
        DataError: the file cannot be read, or its examples do not fit the model.
    """
    from trainer.checkpoint.load_model import checked
    from trainer.sources import table, text

    task, inputs = trained.task, ", ".join(trained.task.inputs)
    columns, data = trained.columns, trained.record["config"]["data"]
    if file.suffix not in (".npy", ".npz"):
        if task.read is not None:
            given = task.read(file)
        elif digit_pictures.is_image(task.example, task.inputs):
            shape = task.example["image"].shape
            fit = data.get("image_size") is not None
            given = digit_pictures.read(file, shape, find_digit=find_digit, fit=fit, warn=warn)
        elif columns is not None and file.suffix.lower() in tables.ENDINGS:
            given = table.read(file, columns, task.inputs)
        elif data["name"] == "text":
            given = text.read(file, data["window"], data.get("stride") or data["window"])
        else:
            kinds = "a .csv, .parquet or .npz" if columns is not None else "an .npz"
            hint = f"give them in {kinds} file, or write read(path) in the model's module"
            raise DataError(f"{file}: the model reads arrays: {inputs}", hint)
    else:
        contents = io.BytesIO(idx.read(file))
        try:
            loaded = np.load(contents)
            given = {task.inputs[0]: loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        except Exception as error:  # numpy raises anything on broken files
            # numpy advises to unpickle what is no file of its own: that would run code in it.
            reason = "it is no array of numbers" if "pickle" in str(error) else first_line(error)
            raise DataError(f"{file}: cannot be read ({reason})", "write it by numpy") from None
    try:
        return checked(trained, given)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _drawn(images: Any, labels: Sequence[str], outputs: Arrays, trained: Trained) -> bytes:
    """Return a PNG file of the first images that the model saw, and its answers."""
    captions = [Path(label).name for label in labels[:MOST_SHOWN]]
    if trained.classes is not None:
        names = trained.class_names
        for number, one in enumerate(outputs["probabilities"][:MOST_SHOWN]):
            captions[number] += f"\n{names[np.argmax(one)]}, {np.max(one):.1%}"
    few = f", the first {MOST_SHOWN} of {len(labels):,}" if len(labels) > MOST_SHOWN else ""
    return pictures.digits_png(images[:MOST_SHOWN], captions, f"what the model saw{few}")


def _npz(sources: Sources, outputs: Arrays) -> bytes:
    """Return an .npz file of the outputs, and the file and index that each example comes from."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        "files": [str(file) for file, _ in sources],
        "index": [index or 0 for _, index in sources],
        # numpy's format knows no bfloat16 and the like: they become float32.
        **{n: a.astype(np.float32) if a.dtype.kind == "V" else a for n, a in outputs.items()},
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _as_json(sources: Sources, outputs: Arrays, trained: Trained) -> Iterator[dict[str, Any]]:
    classes, names = trained.classes, trained.class_names
    for number, (file, index) in enumerate(sources):
        values = {name: array[number].tolist() for name, array in outputs.items()}
        result: dict[str, Any] = {"outputs": values}
        if classes is not None:
            probabilities = values["probabilities"]
            best = int(np.argmax(probabilities))
            result = {"class": best, "name": names[best], "probabilities": probabilities}
        yield {"file": str(file), "index": index, **result}


def _cells(outputs: Arrays, trained: Trained) -> Iterator[tuple[str, ...]]:
    """Yield the names of the columns, then those of each example."""
    if trained.classes is None:
        yield tuple(outputs)
        yield from zip(*([_short(x) for x in a] for a in outputs.values()), strict=True)
        return
    yield "class", "probability", "next"
    names = [printable(name) for name in trained.class_names]
    for probabilities in outputs["probabilities"]:
        first, second = np.argsort(-probabilities, kind="stable")[:2]
        next_ = f"{names[second]} ({probabilities[second]:.2%})"
        yield names[first], f"{probabilities[first]:.2%}", next_


def _short(value: npt.NDArray[Any]) -> str:
    """Return an output for people: its values if there are few, else its dtype and shape."""
    if value.size > FEW:
        return f"{value.dtype} {' x '.join(map(str, value.shape))}"
    values = value.reshape(-1).tolist()
    return " ".join(f"{x:.5g}" if isinstance(x, float) else str(x) for x in values)
