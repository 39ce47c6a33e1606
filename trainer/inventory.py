"""What run directories say of themselves, without jax and whatever state they were left in.

Nothing here writes, and no file is trusted: a job may be killed, or a disk full, at any instant.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from trainer import committed, lock, metrics_log

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
    """Yield the run directories at or below a folder; folders that cannot be read have none."""
    for path, folders, files in os.walk(root):
        directory = Path(path)
        depth = len(directory.relative_to(root).parts)
        if any(mark in folders or mark in files for mark in committed.MARKS):
            yield directory
            folders.clear()  # a run holds no other run
        elif depth == _MAX_DEPTH:
            folders.clear()
        folders.sort()


def describe(directory: Path, now: float) -> RunInfo:
    """Tell what a run directory says of itself.

    Args:
        directory: of the run.
        now: unix seconds.
    """
    summary, environment = (_object(directory / f"{name}.json") for name in _REPORTS)
    problem = next((found for found in (summary, environment) if isinstance(found, str)), None)
    ended = isinstance(summary, dict) and not _outdated(summary, environment)
    report = summary if isinstance(summary, dict) else {}
    train, evaluation, last_time = _latest_points(directory / "metrics.jsonl")
    running = lock.held(directory)
    status = "unknown"
    if running:
        status = "running"
    elif ended and report.get("status") in ("completed", "preempted", "failed"):
        status = report["status"]
    elif problem is None:
        problem = "it ended without a summary: killed, or begun only"
    over = ended and not running
    checkpoints = _steps(directory / committed.CHECKPOINTS)
    dataset = report.get("dataset")
    accuracy = _number(report.get("test_accuracy")) if over else None
    speed = _number(report.get("examples_per_second")) if over else None
    steps = _number(report.get("steps")) if over else _number(train.get("step"))
    error = report.get("error") if over else None
    return RunInfo(
        directory,
        status,
        None if running else str(error).splitlines()[0] if error else problem,
        _text(report.get("experiment")),
        _text(dataset.get("name")) if isinstance(dataset, dict) else None,
        None if steps is None else int(steps),
        _number(report.get("epochs")) if over else None,
        _number(evaluation.get("accuracy")) if accuracy is None else accuracy,
        _number(train.get("examples_per_second")) if speed is None else speed,
        checkpoints[-1] if checkpoints else None,
        bool(checkpoints) and status not in ("running", "completed"),
        now if running else _end(report) if over else last_time or _modified(directory),
    )


_REPORTS = ("summary", "environment")


def _object(path: Path) -> dict[str, Any] | str | None:
    """Return the object in a JSON file, what is wrong with the file, or None if there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return f"{path.name} cannot be read"
    return found if isinstance(found, dict) else f"{path.name} is not as it should be"


def _outdated(summary: dict[str, Any], environment: dict[str, Any] | str | None) -> bool:
    """Return whether a later start than the summary's has got as far as to describe itself."""
    end = _end(summary)
    try:
        assert isinstance(environment, dict)
        begun = datetime.fromisoformat(environment["started"]).timestamp()
    except (AssertionError, KeyError, TypeError, ValueError):
        return False
    return end is not None and begun > end


def _end(summary: dict[str, Any]) -> float | None:
    started, seconds = _number(summary.get("started")), _number(summary.get("wall_seconds"))
    return None if started is None else started + (seconds or 0.0)


def _latest_points(path: Path) -> tuple[dict[str, Any], dict[str, Any], float | None]:
    """Return the last train point and the last eval point, and the time of the later one."""
    try:
        points = metrics_log.read(path)
    except (OSError, TypeError):
        points = []
    last = {point["split"]: point for point in points}
    time = _number(points[-1].get("time")) if points else None
    return last.get("train", {}), last.get("eval", {}), time


def _steps(directory: Path) -> list[int]:
    try:
        return committed.steps(directory)
    except OSError:
        return []


def _modified(directory: Path) -> float | None:
    try:
        return directory.stat().st_mtime
    except OSError:
        return None


def _number(value: object) -> float | None:
    ok = isinstance(value, int | float) and math.isfinite(value) and not isinstance(value, bool)
    return value if ok and isinstance(value, int | float) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
