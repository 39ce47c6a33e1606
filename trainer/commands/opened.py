"""What a command needs to use the model of a run: on the CPU, with warnings told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.commands.arguments import run_directory
from trainer.terminal import Terminal

if TYPE_CHECKING:
    from trainer.trained import Trained


def open_run(given: Path, step: int | None, terminal: Terminal) -> Trained:
    """Read the model of the run that RUN and --step name.

    Raises:
        ConfigError: there is no such run.
        DataError: there is no such checkpoint, or no intact one.
        ReadError: the storage does not give it.
    """
    directory = run_directory(given)
    import jax  # which takes a second, so only when the arguments are known to be good

    # Before anything asks for the devices: a GPU belongs to the job that trains on it.
    jax.config.update("jax_platforms", "cpu")
    from trainer import trained

    return trained.load(directory, step, terminal.warn)
