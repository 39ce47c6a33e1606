"""`-m OPTION=A,B ...` -> the trials of a sweep, each with a name of its own, and their folder."""

import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from trainer.config.compose import Job, compose_each, literal, quoted, readable_errors
from trainer.config.fingerprint import FINGERPRINT, differences, select
from trainer.job import directory
from trainer.job.errors import ConfigError, writing
from trainer.job.files import read_or_empty
from trainer.job.resources import config_dir
from trainer.sweep import folder as sweep_folder
from trainer.sweep.folder import SEED, Trial

SEARCH = "hydra/sweeper=search"
# Of the sweep, not of its trials: its place, and how many trials train at once.
_PLACES, _PARALLEL = ("run.dir", "run.name", "run.root"), "sweep.parallel"
_IRRELEVANT = ("run.quiet", "train.compilation_cache_dir", "cluster")  # the sweep stays the same
_LONGEST, _KEPT = 120, 100  # characters of a trial's name, and of a longer one before its digest
# A comma may stay: an equals sign ends the name of each option, and is escaped in all values, so
# two combinations of values never have one name.
_escaped = partial(quote, safe=",+@:[]", errors="surrogateescape")
_SHAPE: dict[str, Any] = {
    f"{name}?": ({}, None) for name in ("run", "data", "model", "optim", "train", "parallel")
}
_COMPARED = (*FINGERPRINT, "train.epochs", "data.name")  # equal in all rows of one table


class Plan(NamedTuple):
    """A sweep; of a search, what its first trial could be."""

    folder: Path
    shared: list[str]  # the overrides that all trials share
    fixed: list[str]  # those of them that make it this sweep and no other
    swept: dict[str, Override]  # option -> its values or its range
    search: list[str]  # overrides of Hydra's sweeper; empty for a grid
    parallel: int | str  # sweep.parallel
    trials: list[Trial]
    jobs: list[Job]  # the trials, composed

    def trial(self, values: Mapping[str, str]) -> Trial:
        """Return the trial with these values (swept option -> value); no two have one name."""
        ordered = dict(sorted(values.items(), key=lambda item: (item[0] == SEED, item[0])))
        name = ",".join(f"{_escaped(key)}={_escaped(value)}" for key, value in ordered.items())
        if len(name) > _LONGEST:
            name = f"{name[:_KEPT]}~{_digest(name)}"
        own = [f"{key}={value}" for key, value in ordered.items()]
        return Trial(name, ordered, (*self.shared, *own, f"run.dir={quoted(self.folder / name)}"))


def make(overrides: Sequence[str]) -> Plan:
    """Return the sweep that a command line (without its flags) describes, composed and checked.

    Raises:
        ConfigError: an override is wrong, or the folder holds a single run, another sweep or
            finished trials of another configuration.
    """
    with readable_errors(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(literal(overrides, sweep=True))
    settings, places = list[str](), list[str]()
    shared, swept = dict[str, str](), dict[str, Override]()
    for text, override in zip(overrides, parsed, strict=True):
        key = override.get_key_element().removeprefix("++")  # which literal() adds to an option
        shared.pop(key, None)  # the last override of an option counts
        swept.pop(key, None)
        if override.is_hydra_override():
            settings.append(text)
        elif override.is_sweep_override():
            swept[key] = override
        elif key.lstrip("+") in (*_PLACES, _PARALLEL):
            places.append(text)
        else:
            shared[key] = text
    search = SEARCH in settings
    known = (SEARCH, "hydra.sweeper.", "+hydra.sweeper.") if search else "hydra.mode=MULTIRUN"
    if unknown := [text for text in settings if not text.startswith(known)]:
        hint = f"run.name and run.dir place the sweep, and {SEARCH} searches with Optuna"
        raise ConfigError(f"{unknown[0]}: Hydra's own launchers and sweepers are not used", hint)
    if not swept:
        raise ConfigError("-m: no option has several values: give one some: optim.lr=0.02,0.05")
    values = {key: _values(override, search) for key, override in swept.items()}
    fixed = [text for key, text in shared.items() if not _is_in(key, _IRRELEVANT)]
    lines = [f"{key}={','.join(own)}" for key, own in values.items()]
    if search:
        lines = [*settings, *(override.input_line for override in swept.values())]
    first = [f"{key}={own[0]}" for key, own in values.items()]
    (job,) = compose_each([[*shared.values(), *first, *places]])
    run, experiment = job.config.run, "several" if "+experiment" in swept else job.experiment
    parallel = job.config.sweep.parallel
    name = run.name or f"sweep-{_digest(*sorted([*fixed, *lines]))}"
    folder = directory.choose(run.root, experiment, name, run.dir)
    with writing(folder):
        if directory.is_run(folder):
            message = f"-m: {folder} is the directory of a single run, not of a sweep"
            raise ConfigError(message, "choose another folder with run.name=NAME")
    overrides = [*shared.values()]
    plan = Plan(folder, overrides, fixed, swept, settings if search else [], parallel, [], [])
    _check_folder(plan)
    combinations = dict.fromkeys(itertools.product(*values.values()))  # each one once
    plan.trials.extend(plan.trial(dict(zip(swept, own, strict=True))) for own in combinations)
    plan.jobs.extend(compose_each([trial.overrides for trial in plan.trials]))
    return plan


def _values(override: Override, search: bool) -> list[str]:
    """Return the values of a swept option; in a search the first one."""
    text, key, sweep = override.input_line, override.get_key_element(), override.value()
    if _is_in(key, (*_PLACES, _PARALLEL, *_IRRELEVANT)):
        raise ConfigError(f"{text}: {key} is the same in all trials: give it one value")
    if getattr(sweep, "shuffle", False):  # each task of a job array would shuffle for itself
        raise ConfigError(f"{text}: trials have a fixed order: leave out the shuffling")
    if override.is_interval_sweep():
        if not search:
            raise ConfigError(f"{text}: list the values, or search with {SEARCH}")
        return [str(sweep.start)]
    with readable_errors():
        values = [str(value) for value in override.sweep_string_iterator()]
    return values[:1] if search else values


def _check_folder(plan: Plan) -> None:
    """Refuse a folder with another sweep, or with trials that had another configuration.

    The command line holds only a part of the configuration: the rest is in conf/, which may have
    changed. Trials that have not finished are compared when they resume, as any run is.
    """
    fixed, members = sweep_folder.read_plan(plan.folder)
    there = {*fixed, *(f"{key}=..." for values in members.values() for key in values)}
    here = {*plan.fixed, *(f"{key}=..." for key in plan.swept)}
    lines = [f"  {line}: in that sweep only" for line in sorted(there - here)]
    lines += [f"  {line}: on this command line only" for line in sorted(here - there)]
    if members and lines:
        hint = "choose another folder with run.name=NAME,\nor give the options of that sweep"
        raise ConfigError(f"{plan.folder} holds another sweep:\n" + "\n".join(lines), hint)
    trials = [plan.trial(v) for n, v in members.items() if sweep_folder.finished(plan.folder / n)]
    lines = []
    for trial, job in zip(trials, compose_each([trial.overrides for trial in trials]), strict=True):
        path = plan.folder / trial.name / ".hydra" / "config.yaml"
        before = read_or_empty(path, _SHAPE, load=yaml.safe_load)
        lines += [] if before else [f"  {trial.name}: {path} is missing or damaged"]
        now = yaml.safe_load(job.record["config.yaml"])
        pair = select(before, _COMPARED), select(now, _COMPARED)
        lines += [f"  {trial.name}: {line}" for line in differences(*pair, "the finished trial")]
    if lines:
        raise ConfigError(
            f"{plan.folder}: finished trials had another configuration, and one table would rank "
            "both:\n" + "\n".join(lines[:3]),
            "set these options to their earlier values, in conf/ or on the command line,\n"
            "or start another sweep with run.name=NAME",
        )


def _is_in(key: str, names: Sequence[str]) -> bool:
    return any(f"{key.lstrip('+~')}.".startswith(f"{name}.") for name in names)


def _digest(*lines: str) -> str:
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:10]
