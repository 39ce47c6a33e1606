"""Runs the trainer in the test process: a second less than a process of its own, and no imports."""

from __future__ import annotations

import contextlib
import io
import signal
from typing import NamedTuple

import jax

from trainer.commands.train import main
from trainer.job.errors import TrainerError
from trainer.job.signals import SIGNALS, StopRequest


class Done(NamedTuple):
    """How a run ended."""

    returncode: int
    stderr: str


def train(*arguments: str) -> Done:
    """Train on one device as `python -m trainer` does; an error that is not ours is raised."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    cache = jax.config.values["jax_compilation_cache_dir"]
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stderr):
        try:
            code = main([*arguments, "parallel.devices=1"], StopRequest())
        except TrainerError as error:
            code = error.exit_code
            stderr.write(f"error: {error}\n")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            jax.config.update("jax_compilation_cache_dir", cache)
    return Done(code, stderr.getvalue())
