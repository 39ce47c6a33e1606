"""`python -m trainer +experiment=mlp` trains; `python -m trainer COMMAND ...` runs a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from trainer.commands import COMMANDS
from trainer.job.errors import (
    EXIT_COMPLETED,
    EXIT_CONFIG,
    EXIT_INTERNAL,
    EXIT_UNAVAILABLE,
    ConfigError,
    TrainerError,
    first_line,
)
from trainer.job.signals import StopRequest


def main() -> None:
    """Run the command of the command line and exit with a documented code."""
    stop = StopRequest()
    stop.install()  # before the imports below and those of a command, which take a second
    _open_missing_streams()
    import logging
    import shlex
    from pathlib import Path

    for name in ("TRAINER_CACHE_DIR", "TRAINER_CONFIG_DIR", "TRAINER_RUN_ROOT"):
        if not os.environ.get(name, "unset"):  # empty, as templates leave it; it would mean /
            del os.environ[name]
    os.environ["MPLBACKEND"] = "agg"  # a notebook's value names a module that may be missing
    program = "trainer" if Path(sys.argv[0]).name == "trainer" else "python -m trainer"
    # Scripts that start this set it themselves; processes that this starts show it, too.
    os.environ.setdefault("TRAINER_COMMAND", shlex.join([*program.split(), *sys.argv[1:]]))
    for name in ("absl", "asyncio"):  # orbax also logs what it raises, through these
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.excepthook = _without_echoes(sys.excepthook)
    sys.unraisablehook = _without_echoes(sys.unraisablehook)
    command, function, message = "train", "main", ""
    try:
        _check_xla_flags()
        arguments = _without_config_dir(sys.argv[1:])
        if arguments and arguments[0] in COMMANDS:
            command, *arguments = arguments
        if command == "train" and _asks_for_sweep(arguments):
            command, function = "sweep", "multirun"
        code = getattr(import_module(COMMANDS[command]), function)(arguments, stop)
    except SystemExit as ended:  # argparse has printed the help text
        code = EXIT_INTERNAL if ended.code else EXIT_COMPLETED
    except TrainerError as error:
        message, code = f"{error.label}: {error}\n", error.exit_code
    except Exception as error:
        message, code = _unexpected(error)
    stop.ignore()
    _flush(message)
    sys.exit(code)


def _open_missing_streams() -> None:
    """Open the null device where standard input, output or error is closed, as under cron.

    Else a file of the run would get the number of the missing stream, and what native libraries
    log would land in it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _unexpected(error: Exception) -> tuple[str, int]:
    """Return the message for an error that is no TrainerError, and the exit code.

    It has a traceback, unless a package is missing or a variable of jax has a wrong value.
    """
    package = error.name if isinstance(error, ModuleNotFoundError) else None
    if package is not None and package.partition(".")[0] != "trainer":
        hint = "run the one that scripts/train makes (.venv/bin/python), or install the lock"
        message = f"error: {sys.executable} has no package {package}: {hint}\n"
        return message, EXIT_UNAVAILABLE
    text = str(error).upper()  # jax names its options in small letters
    for name, value in os.environ.items():
        if isinstance(error, ValueError) and name.startswith("JAX_") and name in text:
            wrong = f"{name}={value}: {first_line(error)}"
            return f"error: {wrong}: correct it or unset it\n", EXIT_CONFIG
    import traceback

    return traceback.format_exc(), EXIT_INTERNAL


def _check_xla_flags() -> None:
    """Let another process, for 0.2 s, look at XLA_FLAGS, if there are any.

    XLA itself would end this one with 1.

    Raises:
        ConfigError: XLA does not know a flag, or its value is wrong.
    """
    if flags := os.environ.get("XLA_FLAGS"):
        import subprocess

        look = [sys.executable, "-c", "from jaxlib import _jax; _jax.CompileOptions()"]
        said = subprocess.run(look, capture_output=True, text=True, check=False).stderr
        if (at := said.find("] ")) > 0 and "Traceback" not in said:
            reason = first_line(Exception(said[at + 2 :]))
            raise ConfigError(f"XLA_FLAGS={flags}: {reason}", "correct it or unset it")


def _without_config_dir(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without --config-dir DIR.

    It becomes an absolute path in the environment, for this process and for those that it starts.

    Raises:
        ConfigError: there is no such folder.
    """
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", nargs="?", const="")
    args, others = parser.parse_known_args(arguments)
    option, folder = "--config-dir", args.config_dir
    if folder is None:
        option, folder = "TRAINER_CONFIG_DIR", os.environ.get("TRAINER_CONFIG_DIR")
    if folder is not None:
        from trainer.job.directory import expanded

        path, typed = expanded(folder, option).absolute(), f"{option}={folder}"
        if not folder or not path.is_dir():
            hint = "name the folder that holds experiment/, model/ and the like"
            raise ConfigError(f"{typed} is not a folder", hint)
        if (path / "config.yaml").exists():
            hint = "give it another name, or make it an experiment"
            raise ConfigError(f"{typed}: its config.yaml would replace that of the trainer", hint)
        os.environ["TRAINER_CONFIG_DIR"] = str(path)
    return others


def _asks_for_sweep(arguments: Sequence[str]) -> bool:
    """Return whether `-m` is among the arguments, in one of the ways that Hydra reads it."""
    return any(
        a in ("-m", "hydra.mode=MULTIRUN") or (a.startswith("--m") and "--multirun".startswith(a))
        for a in arguments
    )


def _flush(message: str) -> None:
    """Print an error message, if any, and flush; an unwritable stream changes no exit code."""
    for number, stream, text in ((1, sys.stdout, ""), (2, sys.stderr, message)):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # a full disk or a closed pipe: Python would exit with a code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _without_echoes(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook for errors that nobody can catch, without those that repeat one of orbax.

    After a read or write has failed, other threads of orbax still call the event loop that it used,
    and each raises because the loop is closed.
    """

    def filtered(*raised: Any) -> None:
        error = raised[1] if len(raised) > 1 else raised[0].exc_value
        if str(error) != "Event loop is closed":
            hook(*raised)

    return filtered


if __name__ == "__main__":
    main()
