"""One member of a sweep: what its run directory tells about it.

<sweep>/<member>/output.log     what its processes printed, all starts after each other
<sweep>/<member>/member.json    when its last start began, its exit code, what went wrong
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.job import directory as committed
from trainer.job import lock
from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY
from trainer.job.files import write_json
from trainer.sweep.ranking import Result
from trainer.tracking import runs

OUTPUT, ENDING = "output.log", "member.json"

Report = Mapping[str, Any]  # JSON


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
    begun = runs.read_or_empty(directory / ENDING).get("begun")
    write_json(directory / ENDING, {"begun": begun, "exit_code": code, "error": error})


def finished(directory: Path) -> bool:
    """Return whether a member has completed."""
    return runs.read_or_empty(directory / "summary.json").get("status") == "completed"


def of_last_start(summary: Report, ending: Report, goodput: Report) -> Report:
    """Return a member's summary where its last start wrote it, and an empty one elsewhere.

    Args:
        summary: of its last start that came to write one.
        ending: of its last start, as begin() and end() left it.
        goodput: the account of all its starts, also of one that was killed.
    """
    if summary.get("status") == "completed":
        return summary
    # By its end: a process of a job array had started before it could write down that it began.
    started, wall = (runs.number(summary.get(key)) for key in ("started", "wall_seconds"))
    if started is None or started + (wall or 0.0) < (runs.number(ending.get("begun")) or 0.0):
        return {}
    starts = runs.count(runs.table(summary.get("goodput")).get("starts"))
    later = starts is not None and (runs.count(goodput.get("starts")) or 0) > starts
    return {} if later else summary


def status_of(held: bool, summary: Report, ending: Report, saved: bool) -> str:
    """Return the status of a member, as in ranking.Result.

    Args:
        held: whether a job is at it.
        summary: of_last_start().
        ending: of its last start, as begin() and end() left it.
        saved: whether it has got as far as its checkpoints.
    """
    if held:
        return "running"
    if summary.get("status") == "completed":
        return "completed"
    code = runs.count(ending.get("exit_code"))
    if code is not None:
        return "preempted" if code == EXIT_RETRY else "failed"
    # Killed, unless there is a summary: a process that loses another leaves no more.
    if summary.get("status") in ("preempted", "failed"):
        return str(summary["status"])
    return "interrupted" if saved else "waiting"


def result(folder: Path, name: str, values: Mapping[str, str]) -> Result:
    """Tell from its folder how a member stands; also while it runs."""
    directory = folder / name
    newest, ending, goodput = (
        runs.read_or_empty(directory / file) for file in ("summary.json", ENDING, "goodput.json")
    )
    summary = of_last_start(newest, ending, goodput)
    saved = (directory / committed.CHECKPOINTS).is_dir()
    status = status_of(lock.held(directory), summary, ending, saved)
    goodput = goodput or runs.table(summary.get("goodput"))
    if status in ("running", "interrupted", "waiting"):
        summary = ending = {}  # those of a start before
    if status == "completed":
        ending = {"exit_code": EXIT_COMPLETED}
    accuracy, loss = (summary.get(key) for key in ("test_accuracy", "test_loss"))
    steps = summary.get("steps")
    if runs.number(accuracy) is None:
        points = [point for point in runs.points(directory) if point["split"] == "eval"]
        latest = points[-1] if points else {}
        accuracy, loss = latest.get("accuracy"), latest.get("loss")
        steps = latest.get("step") if steps is None else steps
    seconds = [runs.number(n) for n in runs.table(goodput.get("seconds")).values()]
    told = runs.text(ending.get("error")) or runs.text(summary.get("error"))
    return Result(
        name=name,
        values=dict(values),
        status=status,
        test_accuracy=runs.number(accuracy),
        test_loss=runs.loss(loss),
        steps=runs.count(steps),
        epochs=runs.number(summary.get("epochs")),
        examples_per_second=runs.number(summary.get("examples_per_second")),
        seconds=sum(n for n in seconds if n is not None) if seconds else None,
        starts=runs.count(goodput.get("starts")),
        exit_code=runs.count(ending.get("exit_code")),
        error=told if status in ("preempted", "failed") else None,
        weights_sha256=runs.text(summary.get("weights_sha256")) if status == "completed" else None,
    )
