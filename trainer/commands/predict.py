"""`python -m trainer predict RUN FILE ...`: which digit is on a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.commands import arguments as command_line
from trainer.job.errors import EXIT_COMPLETED, EXIT_DATA, DataError, Preempted
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import printable, show, table
from trainer.tracking.terminal import Terminal

if TYPE_CHECKING:
    from trainer.checkpoint.load_model import Trained

DESCRIPTION = """\
Prints which digit is on a picture, by the newest intact checkpoint of a run.

A picture is a PNG or JPEG file of one digit, of any size and colours, dark on light or light on
dark, transparent or not. It is brought to the form of MNIST's digits first: bright on black, scaled
to 20 x 20 pixels, centred by its mass in 28 x 28. An IDX file of images, packed or not, holds
digits of that form already and is taken as it is. The picture should be lit evenly, and hold
nothing besides the digit.
"""
EPILOG = """\
exit codes:
  0   all files were read
  65  a file could not be read: it is named, the others are done; or no checkpoint is intact
  74  the storage does not let a checkpoint be read, or the output cannot be written
  75  asked to stop
  78  RUN is not a run directory, or an option is wrong

examples:
  python -m trainer predict runs/mlp/first seven.png photos/*.jpg
  python -m trainer predict runs/mlp/first t10k-images-idx3-ubyte.gz
  python -m trainer predict runs/mlp/first seven.png --json | jq '.predictions[].probabilities'
"""
LEFT = (0, 3)  # columns of text


class Picture(NamedTuple):
    """One image and where it is from."""

    file: Path
    number: int | None  # in an IDX file, from 0
    pixels: npt.NDArray[np.uint8]  # (rows, cols)

    @property
    def name(self) -> str:
        """What a person is told."""
        return f"{self.file}" if self.number is None else f"{self.file}[{self.number}]"


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
    if args is None:
        return EXIT_COMPLETED
    terminal = Terminal()
    trained = command_line.open_run(args.run, args.step, terminal.warn)
    from trainer.checkpoint import load_model

    pictures: list[Picture] = []
    errors: list[tuple[Path, str]] = []
    for file in args.files:
        try:
            pictures.extend(_read(file, trained))
        except DataError as error:
            errors.append((file, str(error)))
            terminal.error(printable(str(error)))
        if stop():
            raise Preempted("asked to stop before all files were read")
    probabilities = np.zeros((0, trained.objective.num_classes), np.float32)
    if pictures:
        images = np.stack([picture.pixels.ravel() for picture in pictures])
        probabilities = load_model.predict(trained, images).probabilities
    if args.json:
        report = {
            "run": str(trained.run),
            "step": trained.step,
            "predictions": [_json(*pair) for pair in zip(pictures, probabilities, strict=True)],
            "errors": [{"file": str(file), "error": told} for file, told in errors],
        }
        show(to_json(report, indent=2))
    elif pictures:
        rows = [_row(*pair) for pair in zip(pictures, probabilities, strict=True)]
        show("\n".join(table([("image", "digit", "probability", "next"), *rows], LEFT)))
    return EXIT_DATA if errors else EXIT_COMPLETED


def _read(file: Path, trained: Trained) -> Iterator[Picture]:
    """Yield the images of a file, for a model.

    Raises:
        DataError: the file cannot be read, or its images do not fit the model.
    """
    from trainer.checkpoint.load_model import check_shape
    from trainer.data import idx
    from trainer.tasks import digit_pictures as images

    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file}: not a file: give PNG, JPEG or IDX files")
        with file.open("rb") as opened:
            begin = opened.read(2)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}): correct the path") from None
    is_idx = begin in (idx.GZIP_MAGIC, b"\0\0")
    found = idx.read_images(file) if is_idx else images.read(file)[np.newaxis]
    try:
        check_shape(trained, found.shape[1:])
    except DataError as error:
        fix = "give images of that size" if is_idx else "give an IDX file"
        raise DataError(f"{file}: {error}: {fix}") from None
    for index, image in enumerate(found):
        yield Picture(file, index if is_idx else None, image)


def _row(picture: Picture, probabilities: npt.NDArray[np.float32]) -> tuple[str, ...]:
    first, second = np.argsort(-probabilities, kind="stable")[:2]
    return (
        printable(picture.name),
        str(first),
        f"{probabilities[first]:.2%}",
        f"{second} ({probabilities[second]:.2%})",
    )


def _json(picture: Picture, probabilities: npt.NDArray[np.float32]) -> dict[str, object]:
    return {
        "file": str(picture.file),
        "index": picture.number,
        "class": int(np.argmax(probabilities)),
        "probabilities": [float(p) for p in probabilities],
    }
