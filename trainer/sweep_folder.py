"""The folder of a sweep: which members it has, how each of them stands, and sweep.csv.

<sweep>/sweep.json      the options, and the members in their order
<sweep>/<member>/       the run directory of each, with two files more:
output.log          what its processes printed, all starts after each other
member.json         when its last start began, its exit code, what went wrong
<sweep>/sweep.csv       the ranked table
<sweep>/sweep.png       the plot
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from trainer import lock, reports
from trainer.atomic import write_json, write_text
from trainer.errors import EXIT_COMPLETED, EXIT_RETRY, ConfigError, SaveError
from trainer.ranking import Result, member_rows
from trainer.sweep import Member

PLAN, TABLE, PLOT, LOCK = "sweep.json", "sweep.csv", "sweep.png", "sweep.lock"
OUTPUT, ENDING = "output.log", "member.json"
_TURN = "sweep.turn"  # locked by the one that writes the plan or the table

Members = dict[str, dict[str, str]]  # name -> swept option -> value
Report = Mapping[str, Any]  # JSON


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
    plan = reports.read_or_empty(folder / PLAN)
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


def begin(directory: Path) -> None:
    """Write down that a start of a member begins; its run directory has to exist.

    Raises:
        OSError: it cannot be written.
    """
    write_json(directory / ENDING, {"begun": time.time(), "exit_code": None, "error": None})


def end(directory: Path, code: int, error: str | None) -> None:
    """Write down how the start of a member ended.

    Raises:
        OSError: it cannot be written.
    """
    begun = reports.read_or_empty(directory / ENDING).get("begun")
    write_json(directory / ENDING, {"begun": begun, "exit_code": code, "error": error})


def finished(directory: Path) -> bool:
    """Return whether a member has completed."""
    return reports.read_or_empty(directory / "summary.json").get("status") == "completed"


def status_of(held: bool, summary: Report, ending: Report, saved: bool) -> str:
    """Return the status of a member, as in ranking.Result.

    Args:
        held: whether a job is at it.
        summary: of its last start that came to write one.
        ending: of its last start, as begin() and end() left it.
        saved: whether it has checkpoints.
    """
    if held:
        return "running"
    if summary.get("status") == "completed":
        return "completed"
    code = reports.count(ending.get("exit_code"))
    if code is not None:
        return "preempted" if code == EXIT_RETRY else "failed"
    # Killed, unless the summary is of this start: a process that loses another leaves no more.
    begun, started = (
        reports.number(found) for found in (ending.get("begun"), summary.get("started"))
    )
    if summary.get("status") in ("preempted", "failed") and started and started >= (begun or 0.0):
        return str(summary["status"])
    return "interrupted" if saved else "waiting"


def result(folder: Path, name: str, values: Mapping[str, str]) -> Result:
    """Tell from its folder how a member stands; also while it runs."""
    directory = folder / name
    summary, ending, goodput = (
        reports.read_or_empty(directory / file) for file in ("summary.json", ENDING, "goodput.json")
    )
    saved = (directory / "checkpoints").is_dir()
    status = status_of(lock.held(directory), summary, ending, saved)
    goodput = reports.table(summary.get("goodput")) or goodput
    if status in ("running", "interrupted", "waiting"):
        summary = ending = {}  # those of a start before
    if status == "completed":
        ending = {"exit_code": EXIT_COMPLETED}
    accuracy, loss = (summary.get(key) for key in ("test_accuracy", "test_loss"))
    steps = summary.get("steps")
    if reports.number(accuracy) is None:
        points = [point for point in reports.points(directory) if point["split"] == "eval"]
        latest = points[-1] if points else {}
        accuracy, loss = latest.get("accuracy"), latest.get("loss")
        steps = latest.get("step") if steps is None else steps
    seconds = [reports.number(n) for n in reports.table(goodput.get("seconds")).values()]
    told = reports.text(ending.get("error")) or reports.text(summary.get("error"))
    return Result(
        name=name,
        values=dict(values),
        status=status,
        test_accuracy=reports.number(accuracy),
        test_loss=reports.loss(loss),
        steps=reports.count(steps),
        epochs=reports.number(summary.get("epochs")),
        examples_per_second=reports.number(summary.get("examples_per_second")),
        seconds=sum(n for n in seconds if n is not None) if seconds else None,
        starts=reports.count(goodput.get("starts")),
        exit_code=reports.count(ending.get("exit_code")),
        error=told if status in ("preempted", "failed") else None,
        weights_sha256=reports.text(summary.get("weights_sha256"))
        if status == "completed"
        else None,
    )


def results(folder: Path) -> list[Result]:
    """Tell how all members of a sweep stand.

    Raises:
        ConfigError: there is no sweep in this folder.
    """
    return [result(folder, name, values) for name, values in read_members(folder).items()]


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


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until nobody else writes the plan or the table, so that none replaces a newer one.

    Raises:
        OSError: the folder cannot be written.
    """
    with lock.turn(folder / _TURN):
        yield


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
