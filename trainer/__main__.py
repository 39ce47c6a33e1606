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
    """Run what the command line says and exit with a documented code."""
    for name in ("TRAINER_CACHE_DIR", "TRAINER_RUN_ROOT"):
        if not os.environ.get(name, "unset"):  # empty, as templates leave it: the folder /
            del os.environ[name]
    stop = StopRequest()
    stop.install()  # before the imports below, which take a second
    for name in ("absl", "asyncio"):  # through which orbax logs what it raises as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda told: _tell(sys.__unraisablehook__, told.exc_value, told)
    sys.excepthook = lambda *told: _tell(sys.__excepthook__, told[1], *told)
    command, arguments = "train", sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        command, *arguments = arguments
    told = ""
    try:
        code = import_module(COMMANDS[command]).main(arguments, stop)
    except TrainerError as error:
        told, code = f"error: {error}\n", error.exit_code
    except Exception:
        told, code = traceback.format_exc(), EXIT_INTERNAL
    stop.ignore()
    _finish(told)
    sys.exit(code)


def _finish(told: str) -> None:
    """Print the error, if there is one; what cannot be printed does not change the exit code."""
    for number, stream, text in ((1, sys.stdout, ""), (2, sys.stderr, told)):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # a full disk, or nobody reads it: Python would end with a code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _tell(hook: Callable[..., object], error: BaseException | None, *told: object) -> None:
    """Print an error that nobody can catch, unless it only echoes one that orbax has raised.

    After a read or write has failed, other threads still report to the event loop that orbax ran
    it on, and each finds the loop closed.
    """
    if str(error) != "Event loop is closed":
        hook(*told)


if __name__ == "__main__":
    main()
