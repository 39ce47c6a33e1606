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
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer import lock, metrics_log
from trainer.atomic import write_json, write_text
from trainer.errors import EXIT_COMPLETED, EXIT_RETRY, ConfigError
from trainer.ranking import Result, member_rows
from trainer.sweep import Member

PLAN, TABLE, PLOT, LOCK = "sweep.json", "sweep.csv", "sweep.png", "sweep.lock"
OUTPUT, ENDING = "output.log", "member.json"


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
    before = _object(folder / PLAN)
    plan = {"fixed": sorted(fixed), "members": new}
    if before is not None and before.keys() == plan.keys():
        there, here = set(before["fixed"]), set(fixed)
        swept = {key for found in (before["members"], new) for v in found.values() for key in v}
        if there != here or any(set(v) != swept for v in (before["members"] | new).values()):
            lines = [f"  {line}: there only" for line in sorted(there - here)]
            lines += [f"  {line}: here only" for line in sorted(here - there)]
            lines += [] if lines else ["  other options are swept there"]
            raise ConfigError(
                f"{folder} holds another sweep:\n" + "\n".join(lines) + "\nChoose another folder "
                "with run.name=NAME, or give the options as they were"
            )
        plan["members"] = before["members"] | new
    if plan != before:
        write_json(folder / PLAN, plan)


def read_members(folder: Path) -> dict[str, dict[str, str]]:
    """Return the members of a sweep: name -> swept option -> value.

    Raises:
        ConfigError: there is no sweep in this folder.
    """
    plan = _object(folder / PLAN)
    if plan is None or "members" not in plan:
        raise ConfigError(
            f"DIR={folder}: there is no {PLAN} in it: give the folder of a sweep, which "
            "`python -m trainer -m ...` has named, like runs/mlp/sweep-0123456789"
        )
    members: dict[str, dict[str, str]] = plan["members"]
    return members


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
    begun = (_object(directory / ENDING) or {}).get("begun")
    write_json(directory / ENDING, {"begun": begun, "exit_code": code, "error": error})


def finished(directory: Path) -> bool:
    """Return whether a member has completed."""
    return (_object(directory / "summary.json") or {}).get("status") == "completed"


def result(folder: Path, name: str, values: Mapping[str, str]) -> Result:
    """Tell from its folder how a member stands; also while it runs."""
    directory = folder / name
    summary = _object(directory / "summary.json") or {}
    ending = _object(directory / ENDING) or {}
    goodput = summary.get("goodput") or _object(directory / "goodput.json") or {}
    code, error = ending.get("exit_code"), ending.get("error")
    if lock.held(directory):
        status, summary, code, error = "running", {}, None, None
    elif summary.get("status") == "completed":
        status, code, error = "completed", EXIT_COMPLETED, None
    elif code == EXIT_RETRY:
        status = "preempted"
    elif code is not None:
        status = "failed"
    elif summary.get("started", -math.inf) >= (ending.get("begun") or 0.0):
        status, error = summary["status"], summary.get("error")
    else:  # killed: the summary, if there is one, is of a start before
        status = "interrupted" if (directory / "checkpoints").is_dir() else "waiting"
        summary = {}
    if summary.get("test_accuracy") is None:
        latest = _latest(directory)
        summary = {
            "steps": latest.get("step"),
            **summary,
            "test_accuracy": latest.get("accuracy"),
            "test_loss": latest.get("loss"),
        }
    seconds = goodput.get("seconds")
    return Result(
        name=name,
        values=dict(values),
        status=status,
        test_accuracy=summary["test_accuracy"],
        test_loss=_number(summary.get("test_loss")),
        steps=summary.get("steps"),
        epochs=summary.get("epochs"),
        examples_per_second=summary.get("examples_per_second"),
        seconds=sum(seconds.values()) if seconds else None,
        starts=goodput.get("starts"),
        exit_code=code,
        error=error,
        weights_sha256=summary.get("weights_sha256") if status == "completed" else None,
    )


def results(folder: Path) -> list[Result]:
    """Tell how all members of a sweep stand.

    Raises:
        ConfigError: there is no sweep in this folder.
    """
    return [result(folder, name, values) for name, values in read_members(folder).items()]


def write_table(folder: Path, found: Sequence[Result]) -> None:
    """Write sweep.csv, all at once.

    Raises:
        OSError: the folder cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(member_rows(found))
    write_text(folder / TABLE, text.getvalue())


def _object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is none, or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _latest(directory: Path) -> dict[str, Any]:
    """Return the last evaluation that a member has logged."""
    try:
        points = metrics_log.read(directory / "metrics.jsonl")
    except (OSError, TypeError):
        return {}
    return next((point for point in reversed(points) if point["split"] == "eval"), {})


def _number(value: Any) -> float | None:
    return None if value is None else float(value)  # JSON has a string for what is not finite
