"""`-m hydra/sweeper=search ...`: Optuna chooses the values, trial by trial.

With sweep.parallel=N it proposes N trials at a time, from the results of all batches before. So the
proposals do not depend on which trial of a batch ends first.

The study is in memory only: each start rebuilds it from the trials in sweep.json and their results.
So an interrupted search resumes, and a finished one grows with n_trials.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from numpy.random import SeedSequence
from omegaconf import DictConfig

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
    with readable_errors(), initialize_config_dir(str(resources.config_dir()), version_base="1.3"):
        config = hydra.compose("config", plan.search, return_hydra_config=True)
    settings = config.hydra.sweeper
    for name, value in (("n_trials", settings.n_trials), ("sampler.seed", settings.sampler.seed)):
        if not isinstance(value, int):
            raise ConfigError(f"hydra.sweeper.{name}={value}: use a whole number")
    if not isinstance(plan.parallel, int):
        raise ConfigError(
            f"sweep.parallel={plan.parallel}: {SEARCH} proposes as many trials at a time as train "
            "at once",
            "give the number, so that the proposals do not depend on the machine",
        )
    try:
        import optuna
    except ModuleNotFoundError:
        message = f"{SEARCH}: Optuna is not installed"
        raise ConfigError(message, resources.how_to_install("optuna")) from None
    optuna.logging.set_verbosity(logging.ERROR)
    batches = _batches(plan, settings, plan.parallel)
    return train_all(plan, batches, settings.n_trials, stop)


def _batches(plan: Plan, settings: DictConfig, size: int) -> Iterator[Sequence[Trial]]:
    """Yield the trials of a search; each batch has been trained when the next one is taken."""
    import optuna

    space = {key: _distribution(override) for key, override in plan.swept.items()}
    study, names = optuna.create_study(direction="minimize"), set[str]()
    _, known = sweep_folder.read_plan(plan.folder)
    for values in known.values():  # the trials of earlier starts come first
        study.enqueue_trial(dict(values))
    for first in range(0, _TRIES * settings.n_trials, size):
        asked, new = list[tuple[optuna.trial.Trial, Trial]](), list[Trial]()
        for number in range(first, first + size):
            if len(names) == settings.n_trials:
                break
            # A new sampler each time: its proposal depends on the results of the batches before
            # and on nothing else.
            seed = int(SeedSequence((settings.sampler.seed, number)).generate_state(1)[0])
            with readable_errors():
                study.sampler = instantiate(settings.sampler, seed=seed)
                proposed = study.ask(space)
            trial = plan.trial({key: str(value) for key, value in proposed.params.items()})
            asked.append((proposed, trial))
            if trial.name not in names:
                names.add(trial.name)
                new.append(trial)
        if not asked:
            return
        yield new
        for proposed, trial in asked:
            result = sweep_folder.result(plan.folder, trial.name, trial.values)
            if result.status != "completed":
                study.tell(proposed, state=optuna.trial.TrialState.FAIL)
            elif result.score is None:
                raise ConfigError(
                    f"{SEARCH}: {trial.name} has no validation split, and nothing else may choose",
                    "use data.validation_fraction above 0",
                )
            else:
                study.tell(proposed, sweep_folder.cost(result.best, result.score))


def _distribution(override: Override) -> Any:
    """Return Optuna's distribution for the values or the interval of an option."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not override.is_interval_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    interval = override.value()
    kind = IntDistribution if isinstance(interval.start, int) else FloatDistribution
    return kind(interval.start, interval.end, log="log" in interval.tags)
