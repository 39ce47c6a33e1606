"""`python -m trainer +experiment=mlp` trains; `python -m trainer COMMAND ...` runs a command."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from importlib import import_module

from trainer.commands import COMMANDS
from trainer.errors import TrainerError
from trainer.preemption import StopRequest


def main() -> None:
    """Run what the command line says and exit with a documented code."""
    stop = StopRequest()
    stop.install()  # before the imports below, which take a second
    for name in ("absl", "asyncio"):  # through which orbax logs what it raises as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda told: _tell(sys.__unraisablehook__, told.exc_value, told)
    sys.excepthook = lambda *told: _tell(sys.__excepthook__, told[1], *told)
    command, arguments = "train", sys.argv[1:]
    if arguments and arguments[0] in COMMANDS:
        command, *arguments = arguments
    try:
        code = import_module(f"trainer.commands.{command}").main(arguments, stop)
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    stop.ignore()
    sys.exit(code)


def _tell(hook: Callable[..., object], error: BaseException | None, *told: object) -> None:
    """Print an error that nobody can catch, unless it only echoes one that orbax has raised.

    After a read or write has failed, other threads still report to the event loop that orbax ran
    it on, and each finds the loop closed.
    """
    if str(error) != "Event loop is closed":
        hook(*told)


if __name__ == "__main__":
    main()
