"""`python -m trainer predict RUN FILE ...`: which digit is on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainer.commands import arguments as command_line
from trainer.data import idx
from trainer.data.dataset import Bytes
from trainer.job.errors import EXIT_COMPLETED, EXIT_DATA, DataError, Preempted
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tracking.terminal import Terminal

if TYPE_CHECKING:
    from trainer.checkpoint.load_model import Trained

Probabilities = npt.NDArray[np.float32]  # (classes,)

DESCRIPTION = """\
Prints which digit is on a picture, by the newest intact checkpoint of a run.

A picture is a PNG or JPEG file of one digit, of any size and colours, dark on light or light on
dark, transparent or not. It is first converted to the form of MNIST's digits: bright on black,
scaled to 20 x 20 pixels, centred by its mass in 28 x 28. An IDX file of images, plain or gzip, is
used as it is. The picture should be lit evenly and show nothing but the digit.
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
  python -m trainer predict runs/mlp/first t10k-images-idx3-ubyte.gz
  python -m trainer predict runs/mlp/first seven.png --json | jq '.predictions[].probabilities'
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Print what the model makes of each file, as a table or JSON; return the exit code.

    Raises:
        ConfigError: an option is wrong, or there is no such run.
        DataError: the run has no intact checkpoint.
        Preempted: asked to stop.
    """
    parser = command_line.parser("predict", DESCRIPTION, EPILOG)
    command_line.add_run(parser)
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="a PNG, JPEG or IDX file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all probabilities")
    args = command_line.parse(parser, arguments)
    terminal = Terminal()
    trained = command_line.open_run(args.run, args.step, terminal.warn)
    from trainer.checkpoint import load_model

    sources: list[tuple[Path, int | None]] = []  # of each image: its file, and its place in it
    images: list[Bytes] = []
    errors: list[dict[str, str]] = []
    for file in args.files:
        try:
            pictures, is_idx = _read(file, trained)
        except DataError as error:
            errors.append({"file": str(file), "error": str(error)})
            terminal.error(printable(str(error)))
        else:
            sources += [(file, index if is_idx else None) for index in range(len(pictures))]
            images.append(pictures.reshape(len(pictures), -1))
        if stop():
            raise Preempted("asked to stop before all files were read")
    probabilities: Sequence[Probabilities] = ()
    if images:
        probabilities = load_model.predict(trained, np.concatenate(images)).probabilities
    if args.json:
        predictions = [
            {
                "file": str(file),
                "index": index,
                "class": int(np.argmax(values)),
                "probabilities": [float(value) for value in values],
            }
            for (file, index), values in zip(sources, probabilities, strict=True)
        ]
        report = {"run": str(trained.run), "step": trained.step}
        show(to_json({**report, "predictions": predictions, "errors": errors}, indent=2))
    elif images:
        rows = [_row(*pair) for pair in zip(sources, probabilities, strict=True)]
        show("\n".join(table([("image", "digit", "probability", "next"), *rows], left=(0, 3))))
    return EXIT_DATA if errors else EXIT_COMPLETED


def _read(file: Path, trained: Trained) -> tuple[Bytes, bool]:
    """Return the images in a file, uint8 (N, rows, cols), and whether it is an IDX file.

    Raises:
        DataError: the file cannot be read, or its images do not fit the model.
    """
    from trainer.checkpoint.load_model import check_shape
    from trainer.tasks import digit_pictures

    contents = idx.read(file)
    is_idx = contents[:2] in (idx.GZIP_MAGIC, b"\0\0")
    if is_idx:
        images = idx.parse(contents, str(file), rank=3)
    else:
        images = digit_pictures.read(file)[np.newaxis]
    try:
        check_shape(trained, images.shape[1:])
    except DataError as error:
        raise DataError(f"{file}: {error}", "give an IDX file of that size") from None
    return images, is_idx


def _row(source: tuple[Path, int | None], probabilities: Probabilities) -> tuple[str, ...]:
    file, index = source
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    return (
        printable(str(file) if index is None else f"{file}[{index}]"),
        str(first),
        f"{probabilities[first]:.2%}",
        f"{second} ({probabilities[second]:.2%})",
    )
