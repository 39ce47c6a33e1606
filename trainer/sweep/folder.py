"""The folder of a sweep: which members it has, and sweep.csv.

<sweep>/sweep.json      the options, and the members in their order
<sweep>/<member>/       the run directory of each (see member_folder.py)
<sweep>/sweep.csv       the ranked table
<sweep>/sweep.png       the plot
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from trainer.job import directory, lock
from trainer.job.errors import ConfigError, SaveError
from trainer.job.files import write_json, write_text
from trainer.sweep import trial
from trainer.sweep.combine import Member
from trainer.sweep.ranking import Result, member_rows
from trainer.tracking import runs

PLAN = directory.SWEEP
TABLE, PLOT, LOCK = "sweep.csv", "sweep.png", "sweep.lock"
_TURN = "sweep.turn"  # locked by the one that writes the plan or the table

Members = dict[str, dict[str, str]]  # name -> swept option -> value


class Plan(NamedTuple):
    """What sweep.json holds."""

    fixed: list[str]  # the overrides that all members have in common
    members: Members


def write_plan(folder: Path, fixed: Sequence[str], members: Iterable[Member]) -> None:
    """Write down what the sweep consists of; members that it had before stay.

    Args:
        folder: of the sweep, which has to exist.
        fixed: the overrides that all members have in common.
        members: to be added, where they are new.

    Raises:
        ConfigError: the folder holds a sweep with other options in common, or of other options.
        OSError: it cannot be written.
    """
    new = {member.name: dict(member.values) for member in members}
    with turn(folder):
        before = read_plan(folder)
        members_ = new if before is None else _added(folder, before, fixed, new)
        plan = Plan(sorted(fixed), members_)
        if plan != before:
            write_json(folder / PLAN, plan._asdict())


def _added(folder: Path, before: Plan, fixed: Sequence[str], new: Members) -> Members:
    """Return the members of a sweep with new ones.

    Raises:
        ConfigError: they belong to another sweep.
    """
    there, here = set(before.fixed), set(fixed)
    swept = {key for found in (before.members, new) for values in found.values() for key in values}
    added = before.members | new
    if there != here or any(set(values) != swept for values in added.values()):
        lines = [f"  {line}: there only" for line in sorted(there - here)]
        lines += [f"  {line}: here only" for line in sorted(here - there)]
        lines += [] if lines else ["  other options are swept there"]
        raise ConfigError(
            f"{folder} holds another sweep:\n" + "\n".join(lines) + "\nChoose another folder "
            "with run.name=NAME, or give the options as they were"
        )
    return added


def read_plan(folder: Path) -> Plan | None:
    """Return what a sweep consists of; None where no file tells it, or a damaged one."""
    plan = runs.read_or_empty(folder / PLAN)
    fixed, members = plan.get("fixed"), plan.get("members")
    if not isinstance(fixed, list) or not isinstance(members, dict):
        return None
    texts = [*fixed]
    for values in members.values():
        texts += values.values() if isinstance(values, dict) else [None]
    return Plan(fixed, members) if all(isinstance(text, str) for text in texts) else None


def read_members(folder: Path) -> Members:
    """Return the members of a sweep.

    Raises:
        ConfigError: there is no sweep in this folder.
    """
    plan = read_plan(folder)
    if plan is None:
        raise ConfigError(
            f"DIR={folder}: there is no {PLAN} in it, or a damaged one, which the sweep's own "
            "command mends: give the folder of a sweep, which `python -m trainer -m ...` has "
            "named, like runs/mlp/sweep-0123456789"
        )
    return plan.members


def results(folder: Path) -> list[Result]:
    """Tell how all members of a sweep stand.

    Raises:
        ConfigError: there is no sweep in this folder.
    """
    return [trial.result(folder, name, values) for name, values in read_members(folder).items()]


def write_table(folder: Path) -> list[Result]:
    """Bring sweep.csv up to date, all at once; return how the members stand.

    Others may be at it as well: to be called in turn().

    Raises:
        ConfigError: there is no sweep in this folder.
        OSError: the folder cannot be written.
    """
    found = results(folder)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(member_rows(found))
    write_text(folder / TABLE, text.getvalue())
    return found


def turn(folder: Path) -> AbstractContextManager[None]:
    """Wait until nobody else writes the plan or the table, so that none replaces a newer one.

    Raises:
        OSError: the folder cannot be written.
    """
    return lock.turn(folder / _TURN)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write into an error for people.

    Raises:
        SaveError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise SaveError(
            f"{folder}: cannot be written ({error.strerror}): mend the storage, then start the "
            "same sweep again"
        ) from None
