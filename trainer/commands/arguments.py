"""What the commands share: their arguments read by argparse, and the run directory they name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.job import directory as committed
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError


def parser(
    command: str, description: str, epilog: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of one command; the texts are printed as they are."""
    return argparse.ArgumentParser(
        prog=f"python -m trainer {command}",
        usage=usage and f"%(prog)s {usage}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add RUN and --step, which say whose model to use."""
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="the directory of a run, runs/<experiment>/<run.name>"
    )
    parser.add_argument(
        "--step",
        metavar="N",
        type=at_least(0),
        help="use the checkpoint after N steps (default: the newest that is intact)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, which says what to test on."""
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help="test on the images t10k-images-idx3-ubyte and labels t10k-labels-idx1-ubyte, packed "
        "or not, in this folder (default: on the data set of the run)",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Describe the options of a job, which parse() leaves to Hydra."""
    parser.add_argument_group(
        "the job",
        "+experiment=NAME, OPTION=VALUE   what is trained; `python -m trainer --help` lists both",
    )


def at_least(minimum: int) -> Callable[[str], int]:
    """Return what reads an argument that is a whole number of at least `minimum`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text}: use a whole number from {minimum} on")
        return int(text)

    return read


def parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    *,
    overrides: bool = False,
    intermixed: bool = False,
) -> argparse.Namespace | None:
    """Return the arguments; None where --help has answered.

    Args:
        parser: of the command.
        arguments: behind the command.
        overrides: those that the parser does not know are options of a job, in `overrides`.
        intermixed: those without dashes may stand between the others.

    Raises:
        ConfigError: an option is wrong; argparse has told which.
    """
    see = f"see `{parser.prog} --help`"
    try:
        if intermixed:
            return parser.parse_intermixed_args(arguments)
        if not overrides:
            return parser.parse_args(arguments)
        args, unknown = parser.parse_known_args(arguments)
    except SystemExit as ended:
        if ended.code:
            raise ConfigError(see) from None
        return None
    if dashed := [text for text in unknown if text.startswith("-")]:
        raise ConfigError(f"{dashed[0]} is not an option: {see}")
    args.overrides = unknown
    return args


def run_directory(given: Path) -> Path:
    """Return the run directory that RUN names, absolute.

    Raises:
        ConfigError: there is none.
    """
    fix = "give the directory of a run, such as runs/mlp/NAME (`python -m trainer runs` lists them)"
    directory = expanded(given, "RUN").absolute()
    try:
        if not directory.exists():
            raise ConfigError(f"RUN={given} does not exist: {fix}")
        if not directory.is_dir() or not committed.is_run(directory):
            raise ConfigError(f"RUN={given} is not a run directory: {fix}")
    except OSError as error:
        raise ConfigError(f"RUN={given} cannot be read ({error.strerror}): {fix}") from None
    return directory
