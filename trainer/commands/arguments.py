"""What the commands share: parsing their arguments, and opening the run that they name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from trainer.job.directory import existing
from trainer.job.errors import ConfigError

if TYPE_CHECKING:
    from trainer.checkpoint.load_model import Trained


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, where argparse prints the usage and ends the process."""
        raise ConfigError(message, f"see `{self.prog} --help`")


def parser(
    command: str, description: str, epilog: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """Return the parser of a command; description and epilog keep their line breaks."""
    return _Parser(
        prog=f"python -m trainer {command}",
        usage=usage and f"%(prog)s {usage}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_run(parser: argparse.ArgumentParser, *, step: bool = True) -> None:
    """Add RUN, and --step, which names a checkpoint of it."""
    help_ = "the directory of a run, runs/<experiment>/<run.name>"
    parser.add_argument("run", metavar="RUN", type=Path, help=help_)
    if step:
        help_ = "use the checkpoint after N steps, or the best one that is kept (checkpoint.best); "
        help_ += "default: the newest intact one"
        parser.add_argument("--step", metavar="N|best", type=_step, help=help_)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add --data, which names the test images."""
    help_ = (
        "test on t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, gzip or plain, in this folder; "
        "for models of images (default: the data set of the run)"
    )
    parser.add_argument("--data", metavar="FOLDER", type=Path, help=help_)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Describe the options of a job, which Hydra parses."""
    parser.add_argument_group(
        "the job",
        "+experiment=NAME, OPTION=VALUE   what is trained; `python -m trainer --help` lists both",
    )


def at_least(minimum: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number of at least `minimum`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text}: use a whole number from {minimum} up")
        return int(text)

    return read


def _step(text: str) -> int | str:
    return text if text == "best" else at_least(0)(text)


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str], *, overrides: bool = False
) -> argparse.Namespace:
    """Return the arguments after the command; --help prints and raises SystemExit(0).

    With `overrides`, those that the parser does not know are options of a job, in args.overrides.

    Raises:
        ConfigError: an option is wrong.
    """
    args, unknown = parser.parse_known_args(arguments)
    if overrides:
        from trainer.config.explain import refuse_words  # imports Hydra, which others do without

        refuse_words(unknown, see=f"see `{parser.prog} --help`")
        args.overrides = unknown
    elif unknown:
        parser.error(f"{unknown[0]} is not an option")
    return args


def open_run(given: Path, step: int | str | None, warn: Callable[[str], None]) -> Trained:
    """Load the model that RUN and --step name, on the CPU.

    Raises:
        ConfigError: there is no such run.
        DataError: there is no such checkpoint, or no intact one.
        ReadError: the storage fails.
    """
    directory = existing(given)
    import jax  # takes a second, so only when the arguments are known to be good

    # Before anything asks for the devices: the GPU belongs to the job that trains on it.
    jax.config.update("jax_platforms", "cpu")
    from trainer.checkpoint import load_model

    return load_model.load(directory, step, warn)
