"""`-m hydra/sweeper=search ...`: Optuna chooses the values, trial by trial.

The study is in memory only: each start rebuilds it from the trials in sweep.json and their results.
So an interrupted search resumes, and a finished one grows with n_trials.
"""

import logging
from collections.abc import Iterator
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from numpy.random import SeedSequence
from omegaconf import DictConfig

from trainer.config import schema
from trainer.config.compose import readable_errors
from trainer.job import resources
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import Trial
from trainer.sweep.launcher import train_all
from trainer.sweep.plan import SEARCH, Plan

_TRIES = 10  # proposals for each trial; ranges of a few values run out of new ones


def main(plan: Plan, stop: StopRequest) -> int:
    """Search for the best score, see checkpoint.best; return and raise what train_all() does."""
    with readable_errors(), initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
        config = hydra.compose("config", plan.search, return_hydra_config=True)
    settings = config.hydra.sweeper
    for name, value in (("n_trials", settings.n_trials), ("sampler.seed", settings.sampler.seed)):
        if not isinstance(value, int):
            raise ConfigError(f"hydra.sweeper.{name}={value}: use a whole number")
    try:
        import optuna
    except ModuleNotFoundError:
        message = f"{SEARCH}: Optuna is not installed"
        raise ConfigError(message, resources.how_to_install("optuna")) from None
    optuna.logging.set_verbosity(logging.ERROR)
    return train_all(plan, _proposals(plan, settings), settings.n_trials, stop)


def _proposals(plan: Plan, settings: DictConfig) -> Iterator[Trial]:
    """Yield the trials of a search; each one has been trained when the next one is taken."""
    import optuna

    space = {key: _distribution(override) for key, override in plan.swept.items()}
    study, names = optuna.create_study(direction="minimize"), set[str]()
    _, known = sweep_folder.read_plan(plan.folder)
    for values in known.values():  # the trials of earlier starts come first
        study.enqueue_trial(dict(values))
    for number in range(_TRIES * settings.n_trials):
        if len(names) == settings.n_trials:
            return
        # A new sampler each time: its proposal depends on the results so far and on nothing else.
        seed = int(SeedSequence((settings.sampler.seed, number)).generate_state(1)[0])
        with readable_errors():
            study.sampler = instantiate(settings.sampler, seed=seed)
            asked = study.ask(space)
        trial = plan.trial({key: str(value) for key, value in asked.params.items()})
        if trial.name not in names:
            names.add(trial.name)
            sweep_folder.add(plan.folder, plan.fixed, [trial])
            yield trial
        result = sweep_folder.result(plan.folder, trial.name, trial.values)
        if result.status == "completed" and result.score is None:
            message = f"{SEARCH}: {trial.name} has no validation split, and nothing else may choose"
            raise ConfigError(message, "use data.validation_fraction above 0")
        failed = result.status != "completed"
        states = optuna.trial.TrialState
        cost = None if failed else result.cost
        study.tell(asked, cost, states.FAIL if failed else states.COMPLETE)


def _distribution(override: Override) -> Any:
    """Return Optuna's distribution for the values or the interval of an option."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not override.is_interval_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    interval = override.value()
    kind = IntDistribution if isinstance(interval.start, int) else FloatDistribution
    return kind(interval.start, interval.end, log="log" in interval.tags)
