"""What run directories say of themselves, without jax and whatever state they were left in."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from trainer.job import directory as committed
from trainer.job import lock
from trainer.job.files import NONFINITE
from trainer.tracking import metrics


def read(path: Path) -> dict[str, Any] | str | None:
    """Return the object in a JSON file, what is wrong with the file, or None if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError):
        return f"{path.name} cannot be read"
    return found if isinstance(found, dict) else f"{path.name} is not as it should be"


def read_or_empty(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one where it has none."""
    return table(read(path))


def last_summary(directory: Path, since: float = 0.0) -> dict[str, Any]:
    """Return summary.json if the last start of the run wrote it; otherwise an empty dictionary.

    A start that is killed writes no summary and leaves the one of an earlier start. It is outdated
    if environment.json, which each start writes before it trains, is newer, if goodput.json counts
    more starts, or if the caller knows that the last start began later.

    Args:
        directory: the run directory.
        since: when the last start began, in unix seconds, if the caller knows.
    """
    summary, environment, goodput = (
        read_or_empty(directory / f"{name}.json") for name in ("summary", "environment", "goodput")
    )
    begun = since
    with suppress(KeyError, TypeError, ValueError):
        begun = max(begun, datetime.fromisoformat(environment["started"]).timestamp())
    starts = number(table(summary.get("goodput")).get("starts"))
    later = starts is not None and (number(goodput.get("starts")) or 0) > starts
    return {} if later or (_end(summary) or 0.0) < begun else summary


def points(directory: Path) -> list[dict[str, Any]]:
    """Return what a run has logged, in its order."""
    try:
        return metrics.read(directory / "metrics.jsonl")
    except (OSError, TypeError):
        return []


def table(value: object) -> dict[str, Any]:
    """Return an object of JSON; an empty one where it is something else."""
    return value if isinstance(value, dict) else {}


def number(value: object) -> float | None:
    """Return a finite number; None where it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def loss(value: object) -> float | None:
    """Return a number that may be infinite, or NaN, for which JSON has texts."""
    if isinstance(value, float) or (isinstance(value, str) and value in NONFINITE):
        return float(value)
    return number(value)


def count(value: object) -> int | None:
    """Return a whole number; None where it is something else."""
    found = number(value)
    return None if found is None else int(found)


def text(value: object) -> str | None:
    """Return a text; None where it is something else."""
    return value if isinstance(value, str) else None


_MAX_DEPTH = 8  # of folders below the one that is searched


class RunInfo(NamedTuple):
    """One run; None stands for what cannot be told."""

    directory: Path
    status: str  # completed, preempted, failed, running or unknown
    note: str | None  # why it failed, or what is wrong with the folder
    experiment: str | None
    dataset: str | None
    steps: int | None
    epochs: float | None
    test_accuracy: float | None  # 0 to 1, the latest
    examples_per_second: float | None  # trained
    newest_checkpoint: int | None  # its step; whether it is intact is for `verify` to tell
    resumable: bool  # has work left, something to go on from, and nobody at it
    updated: float | None  # unix seconds of its last sign of life


def find(root: Path) -> Iterator[Path]:
    """Yield the run directories at or below a folder; folders that cannot be read have none.

    Links to folders are followed; what has several paths is yielded once.
    """
    seen: set[tuple[int, int]] = set()
    starts = [root]
    for start in starts:  # links come last: a run is called by its own name where it has one here
        for path, folders, files in os.walk(start):
            directory = Path(path)
            identity = _identity(directory)
            if identity is None or identity in seen:
                folders.clear()
                continue
            seen.add(identity)
            if any(mark in folders or mark in files for mark in committed.MARKS):
                yield directory
                folders.clear()  # a run holds no other run
            elif len(directory.relative_to(root).parts) == _MAX_DEPTH:
                folders.clear()
            folders.sort()
            starts += [link for name in folders if (link := directory / name).is_symlink()]


def describe(directory: Path) -> RunInfo:
    """Tell what a run directory says of itself."""
    summary = read(directory / "summary.json")
    environment = read(directory / "environment.json")
    problem = next((found for found in (summary, environment) if isinstance(found, str)), None)
    report = last_summary(directory)  # what an outdated one says is left out, but for names
    logged = points(directory)
    last = {point["split"]: point for point in logged}
    train, evaluation = last.get("train", {}), last.get("eval", {})
    last_time = number(logged[-1].get("time")) if logged else None
    running = lock.held(directory)
    status = "unknown"
    if running:
        status = "running"
    elif report.get("status") in ("completed", "preempted", "failed"):
        status = report["status"]
    elif problem is None:
        problem = "it ended without a summary: killed, or begun only"
    over = bool(report) and not running
    checkpoints = _steps(directory / committed.CHECKPOINTS)
    accuracy = number(report.get("test_accuracy")) if over else None
    speed = number(report.get("examples_per_second")) if over else None
    steps = count(report.get("steps") if over else train.get("step"))
    error = report.get("error") if over else None
    modified = _modified(directory)  # by every file that is replaced as a whole
    if running:
        updated = max((t for t in (last_time, modified) if t is not None), default=None)
    else:
        updated = (_end(report) if over else last_time) or modified
    return RunInfo(
        directory,
        status,
        None if running else str(error).splitlines()[0] if error else problem,
        text(table(summary).get("experiment")),
        text(table(table(summary).get("dataset")).get("name")),
        steps,
        number(report.get("epochs")) if over else None,
        number(evaluation.get("accuracy")) if accuracy is None else accuracy,
        number(train.get("examples_per_second")) if speed is None else speed,
        checkpoints[-1] if checkpoints else None,
        bool(checkpoints) and status not in ("running", "completed"),
        updated,
    )


def _end(summary: dict[str, Any]) -> float | None:
    started, seconds = (number(summary.get(key)) for key in ("started", "wall_seconds"))
    return None if started is None else started + (seconds or 0.0)


def _steps(directory: Path) -> list[int]:
    try:
        return committed.steps(directory)
    except OSError:
        return []


def _identity(directory: Path) -> tuple[int, int] | None:
    """Return what is the same for all paths to a folder; None where it is gone."""
    try:
        found = directory.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _modified(directory: Path) -> float | None:
    try:
        return directory.stat().st_mtime
    except OSError:
        return None
