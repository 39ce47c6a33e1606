"""`python -m trainer +experiment=mlp` trains; `python -m trainer COMMAND ...` runs a command."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from trainer.commands import COMMANDS
from trainer.job.errors import EXIT_INTERNAL, TrainerError
from trainer.job.signals import StopRequest


def main() -> None:
    """Run the command of the command line and exit with a documented code."""
    for name in ("TRAINER_CACHE_DIR", "TRAINER_RUN_ROOT"):
        if not os.environ.get(name, "unset"):  # empty, as templates leave it; it would mean /
            del os.environ[name]
    stop = StopRequest()
    stop.install()  # before the imports of the commands, which take a second
    for name in ("absl", "asyncio"):  # orbax also logs what it raises, through these
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: _print_unless_echo(
        sys.__unraisablehook__, unraisable.exc_value, unraisable
    )
    sys.excepthook = lambda *raised: _print_unless_echo(sys.__excepthook__, raised[1], *raised)
    command, arguments = "train", sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        command, *arguments = arguments
    message = ""
    try:
        code = import_module(COMMANDS[command]).main(arguments, stop)
    except TrainerError as error:
        message, code = f"error: {error}\n", error.exit_code
    except Exception:
        message, code = traceback.format_exc(), EXIT_INTERNAL
    stop.ignore()
    _flush(message)
    sys.exit(code)


def _flush(message: str) -> None:
    """Print an error message, if any, and flush; an unwritable stream changes no exit code."""
    for number, stream, text in ((1, sys.stdout, ""), (2, sys.stderr, message)):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # a full disk or a closed pipe: Python would exit with a code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _print_unless_echo(
    hook: Callable[..., object], error: BaseException | None, *arguments: object
) -> None:
    """Print an error that nobody can catch, unless it only repeats one that orbax has raised.

    After a read or write has failed, other threads of orbax still call the event loop that it used,
    and each raises because the loop is closed.
    """
    if str(error) != "Event loop is closed":
        hook(*arguments)


if __name__ == "__main__":
    main()
