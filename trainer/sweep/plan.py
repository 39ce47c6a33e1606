"""`-m` and its overrides -> the members of a sweep and the folder it lies in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from trainer.config import schema as trainer_config
from trainer.config.compose import Job, compose_each, literal, quoted, readable_errors
from trainer.distributed import topology
from trainer.job import directory as rundir
from trainer.job.errors import ConfigError
from trainer.sweep import folder as sweep_folder
from trainer.sweep.combine import SEED, Member, combine, folder_name

PLACES = ("run.dir", "run.name", "run.root")  # where a sweep lies, not its members
INDIFFERENT = ("run.quiet", "train.compilation_cache_dir", "cluster")  # make no other sweep


class Plan(NamedTuple):
    """A sweep: its members and where they go."""

    folder: Path
    fixed: list[str]  # overrides that all members have in common and that matter
    members: list[Member]


def arguments(folder: Path, member: Member) -> list[str]:
    """Return the command line that trains a member, in its folder within the sweep's."""
    return [*member.overrides, f"run.dir={quoted(folder / member.name)}"]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether a command line asks for a sweep."""
    return any(
        a in ("-m", "hydra.mode=MULTIRUN") or (a.startswith("--m") and "--multirun".startswith(a))
        for a in arguments
    )


def refuse_several_processes(job: Job) -> None:
    """Refuse a sweep that several processes were started with.

    Raises:
        ConfigError: there are several.
    """
    found = topology.resolve(job.config.cluster, os.environ)
    if found.num_processes > 1:
        raise ConfigError(
            f"-m: {found.num_processes} processes were started ({found.evidence}), and a sweep is "
            "one process that starts the others: start it once, or start each member as a job of "
            "its own with --member I"
        )


def make(overrides: Sequence[str]) -> Plan:
    """Tell the members of a sweep, in a second or so; they are not checked.

    Args:
        overrides: of the command line, without `-m` and other flags.

    Raises:
        ConfigError: an override cannot be read, or must not be swept.
    """
    swept: dict[str, list[str]] = {}
    fixed: dict[str, str] = {}
    places: list[str] = []
    for override in parse(overrides):
        key, text = override.get_key_element(), str(override.input_line)
        swept.pop(key, None)
        fixed.pop(key, None)
        if override.is_hydra_override():
            if text != "hydra.mode=MULTIRUN":
                raise ConfigError(
                    f"{text}: members are trained one after the other, by no launcher of Hydra's; "
                    "run.name=NAME or run.dir=DIR says where the sweep lies, and "
                    "hydra/sweeper=search is for the extra `optuna`"
                )
        elif override.is_sweep_override():
            swept[key] = _values(override)
        elif key.lstrip("+") in PLACES:
            places.append(text)
        else:
            fixed[key] = text
    # A seed alone is a sweep of one value, to which others can be added.
    alone = {SEED: _single(fixed[SEED])} if not swept and SEED in fixed else {}
    lines = [text for key, text in fixed.items() if matters(key) and key not in alone]
    lines += [f"{key}={','.join(values)}" for key, values in (swept | alone).items()]
    first = [*fixed.values(), *(f"{key}={values[0]}" for key, values in swept.items())]
    folder = folder_of([*first, *places], swept.get("+experiment", []), folder_name(lines))
    there = sweep_folder.read_plan(folder)
    for values in there.members.values() if there is not None else ():
        swept |= {key: _single(fixed.pop(key)) for key in values if key in fixed}
    if alone and not swept:
        swept = alone
        del fixed[SEED]
    members = combine(swept, list(fixed.values()))
    return Plan(folder, [text for key, text in fixed.items() if matters(key)], members)


def folder_of(overrides: Sequence[str], experiments: Sequence[str], name: str) -> Path:
    """Return where a sweep lies: run.dir, or <run.root>/<experiment>/<run.name, or `name`>.

    Args:
        overrides: of a member, and those that say where the sweep lies.
        experiments: that are swept.
        name: where run.name is not given.

    Raises:
        ConfigError: the overrides are wrong, or a single run lies there.
    """
    (job,) = compose_each([overrides])
    run = job.config.run
    experiment = job.experiment if len(experiments) < 2 else "several"
    folder = rundir.choose(run.root, experiment, run.name or name, run.dir)
    rundir.refuse_run(folder)
    return folder


def parse(overrides: Sequence[str]) -> list[Override]:
    """Read overrides by Hydra's grammar, or as texts where they name files and it cannot.

    Each keeps the line that was given: a sweep has its name from these.

    Raises:
        ConfigError: one cannot be read.
    """
    directory = str(trainer_config.config_dir())
    with readable_errors(), initialize_config_dir(directory, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        return [_parsed(parser, text) for text in overrides]


def _parsed(parser: OverridesParser, text: str) -> Override:
    (as_text,) = literal([text])
    try:
        (override,) = parser.parse_overrides([text])  # first: a choice between folders is one
    except HydraException:
        if as_text == text:
            raise
        (override,) = parser.parse_overrides([as_text])
        override.input_line = text
    return override


def _values(override: Override) -> list[str]:
    key, text = override.get_key_element(), override.input_line
    name = key.lstrip("+")
    if name in PLACES or not matters(key):
        raise ConfigError(f"{text}: members cannot differ in {name}: give it one value")
    if not override.is_discrete_sweep():
        raise ConfigError(f"{text}: name the values, or let Optuna search: hydra/sweeper=search")
    if getattr(override.value(), "shuffle", False):
        raise ConfigError(f"{text}: the members have an order that stays: leave out the shuffling")
    with readable_errors():
        return [str(value) for value in override.sweep_string_iterator()]


def _single(text: str) -> list[str]:
    """Return the one value of an override, as it were of a sweep's."""
    key, _, value = text.partition("=")
    if literal([text]) != [text]:
        return [value]
    (override,) = parse([f"{key}=choice({value})"])
    return _values(override)


def matters(key: str) -> bool:
    """Return whether an option makes a sweep another one."""
    name = key.lstrip("+~")
    return not any(name == other or name.startswith(f"{other}.") for other in INDIFFERENT)
