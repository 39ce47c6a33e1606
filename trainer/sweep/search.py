"""`python -m trainer -m hydra/sweeper=search ...`: Optuna chooses the values, trial by trial.

Optuna runs in this process and knows nothing of folders. With its seed given it asks for the same
trials again when the same command starts again, and those that are finished answer at once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trainer.config.compose import job_of, literal, quoted, readable_errors, run_hydra
from trainer.job.errors import EXIT_COMPLETED, ConfigError, TrainerError
from trainer.job.signals import StopRequest
from trainer.sweep import plan, unchanged
from trainer.sweep.combine import folder_name, member_of
from trainer.sweep.launcher import Conductor
from trainer.tracking.terminal import Terminal

SWEEPER = "hydra/sweeper=search"
_SETTINGS = ("hydra.sweeper.", "hydra/sweeper/")
_RANGES = ("hydra.sweeper.params", "hydra.sweeper.search_space")  # that are not on the command line


class _Ended(BaseException):
    """Carries an error past Hydra, which would print it and go on."""

    def __init__(self, error: TrainerError) -> None:
        self.error = error


def main(overrides: Sequence[str], stop: StopRequest) -> int:
    """Let Optuna search as the overrides say; return the exit code, as of any sweep.

    Raises:
        TrainerError: of the kind that tells what went wrong.
    """
    asked = _read(overrides)
    try:
        import_module("hydra_plugins.hydra_optuna_sweeper")
        optuna = import_module("optuna")
    except ModuleNotFoundError:
        raise ConfigError(
            f"{SWEEPER}: Optuna is not installed: install the extra `optuna`: "
            "pip install '.[optuna]' in the checkout"
        ) from None
    unchanged.check(asked.folder, asked.matters)  # not within Hydra, which composes once at a time
    optuna.logging.set_verbosity(logging.ERROR)
    with ExitStack() as stack:
        conductor: Conductor | None = None

        def trial(cfg: DictConfig) -> float:
            """Train what Optuna asks for, and return the test accuracy."""
            nonlocal conductor
            hydra_config = HydraConfig.get()
            try:
                with readable_errors():
                    job = job_of(cfg, hydra_config)
                if conductor is None:
                    _check(hydra_config.sweeper)
                    plan.refuse_several_processes(job)
                    terminal = Terminal(quiet=job.config.run.quiet)
                    conductor = Conductor(
                        asked.folder, asked.matters, hydra_config.sweeper.n_trials, terminal, stop
                    )
                    stack.enter_context(conductor)
                pairs = (text.partition("=") for text in hydra_config.overrides.task)
                values = {key: value for key, _, value in pairs if key in asked.searched}
                member = member_of(values, asked.fixed)
                conductor.add([member])
                result = conductor.train(member)
            except TrainerError as error:
                raise _Ended(error) from None
            if result.status != "completed" or result.test_accuracy is None:
                raise RuntimeError("no accuracy")  # for Optuna, which goes on
            return result.test_accuracy

        # Hydra wants a folder for itself; the sweep's is made when the first trial is checked.
        scratch = stack.enter_context(TemporaryDirectory(prefix="trainer-search-"))
        own = [f"hydra.sweep.dir={quoted(scratch)}", "hydra.sweep.subdir=."]
        try:
            with readable_errors():
                options = [*literal(asked.fixed), *asked.searched.values()]
                run_hydra(["-m", *asked.settings, *own, *options], trial)
        except _Ended as ended:
            raise ended.error from None
        except ConfigError:  # where no trial has completed, Optuna has no best one
            if conductor is None or not conductor.failed:
                raise
        return conductor.code if conductor is not None else EXIT_COMPLETED


class _Asked(NamedTuple):
    """What the command line says."""

    folder: Path
    settings: list[str]  # overrides of Optuna's sweeper
    fixed: list[str]  # overrides that all trials have in common
    matters: list[str]  # those of them that make it another search
    searched: dict[str, str]  # option -> the override with its range


def _read(overrides: Sequence[str]) -> _Asked:
    """Take the command line apart.

    Raises:
        ConfigError: it is wrong.
    """
    settings, places = [], []
    fixed: dict[str, str] = {}
    searched: dict[str, str] = {}
    for override in plan.parse(overrides):
        text, key = str(override.input_line), override.get_key_element()
        if override.is_hydra_override():
            if text != SWEEPER and not text.startswith(_SETTINGS):
                raise ConfigError(f"{text}: a search takes {SWEEPER} and hydra.sweeper.* only")
            if key.startswith(_RANGES):
                raise ConfigError(
                    f"{text}: is not used: give each option its range itself, like "
                    "'optim.lr=interval(0.01,0.2)'"
                )
            settings.append(text)
        elif override.is_sweep_override():
            fixed.pop(key, None)
            searched[key] = text
        elif key.lstrip("+") in plan.PLACES:
            places.append(text)
        else:
            searched.pop(key, None)
            fixed[key] = text
    if not searched:
        raise ConfigError("-m: nothing to search: give an option a range, like interval(0.01,0.2)")
    matters = [text for key, text in fixed.items() if plan.matters(key)]
    name = folder_name([*matters, *searched.values(), *settings])
    folder = plan.folder_of([*fixed.values(), *places], (), name)
    return _Asked(folder, settings, list(fixed.values()), matters, searched)


def _check(sweeper: DictConfig) -> None:
    """Refuse settings that would search for the worst, or could not go on.

    Raises:
        ConfigError: names the setting.
    """
    if sweeper.direction != "maximize":
        raise ConfigError(
            f"hydra.sweeper.direction={sweeper.direction}: the test accuracy is searched: maximize"
        )
    if sweeper.get("sampler") is None or sweeper.sampler.get("seed") is None:
        raise ConfigError(
            "hydra.sweeper.sampler.seed: give a number, with which the same command goes on"
        )
