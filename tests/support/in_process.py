"""Runs the trainer in the test process: seconds less than starting another Python."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from support.kept_programs import HERE

from trainer.commands.train import main
from trainer.job.errors import TrainerError
from trainer.job.signals import SIGNALS, StopRequest

# Pictures take longer to draw than the small runs to train.
DEFAULTS = ("parallel.devices=1", "train.pictures_every_epochs=null")
SMOKE = ("+experiment=smoke", "run.dir=run", "train.pictures_every_epochs=null")
CONSTANT = ("optim.schedule=constant",)


class Done(NamedTuple):
    """How a run ended."""

    returncode: int
    stderr: str


class StopAfter(StopRequest):
    """A request that comes while a run is asked about it for the nth time."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self._left = questions

    def __call__(self) -> bool:
        self._left -= 1
        if self._left <= 0:
            self.signal_name = "SIGTERM"
        return super().__call__()


def train(folder: Path, *arguments: str, stop: StopRequest | None = None) -> Done:
    """Train in a folder, as `python -m trainer` does, with DEFAULTS for what is not given."""
    given = {argument.partition("=")[0] for argument in arguments}
    others = (each for each in DEFAULTS if each.partition("=")[0] not in given)
    return ended(folder, lambda: main([*arguments, *others], stop or StopRequest()))


def ended(folder: Path, command: Callable[[], int]) -> Done:
    """Call something that trains, in a folder, and return how it ended: never with a traceback."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    cache = jax.config.values["jax_compilation_cache_dir"]
    variable = os.environ.get("TRAINER_CACHE_DIR")
    os.environ["TRAINER_CACHE_DIR"] = str(HERE)
    stderr = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(stderr),
    ):
        try:
            code = command()
        except TrainerError as error:
            code = error.exit_code
            stderr.write(f"{error.label}: {error}\n")
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            jax.config.update("jax_compilation_cache_dir", cache)
            del os.environ["TRAINER_CACHE_DIR"]
            if variable is not None:
                os.environ["TRAINER_CACHE_DIR"] = variable
    assert "Traceback" not in stderr.getvalue(), stderr.getvalue()
    return Done(code, stderr.getvalue())


def summary_of(folder: Path, run: str = "run") -> dict:
    """Return a run's summary.json."""
    return json.loads((folder / run / "summary.json").read_text())


def points_of(folder: Path, run: str = "run") -> list[dict]:
    """Return every logged point of a run, less what the clock says."""
    lines = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in p.items() if k not in ("time", "examples_per_second")} for p in lines]
