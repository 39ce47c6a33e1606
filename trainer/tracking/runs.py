"""What the files of a run directory say, whatever state the run is in."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trainer.job import directory as run_layout
from trainer.job import lock
from trainer.job.files import ignoring, read_or_empty
from trainer.tracking import environment, metrics
from trainer.tracking.summary import SHAPE as SUMMARY
from trainer.tracking.summary import default_best


class RunInfo(NamedTuple):
    """One run; None stands for what its files do not say."""

    directory: Path
    status: str  # completed, preempted, failed, running or unknown
    note: str | None  # why it failed, or what is wrong with the folder
    experiment: str | None
    dataset: str | None
    steps: int | None
    epochs: float | None
    test_accuracy: float | None  # 0 to 1, at the end; without a validation split, the latest
    best: str  # METRIC:max or METRIC:min, by which the run is ranked
    score: float | None  # that metric on the validation split, the latest
    test_score: float | None  # and on the test split
    test_loss: float | None
    examples_per_second: float | None  # of training
    newest_checkpoint: int | None  # its step; only `verify` checks that it is intact
    resumable: bool  # has work left and a checkpoint, and no job is running it
    updated: float | None  # unix seconds of its last sign of life


def describe(directory: Path) -> RunInfo:
    """Return what the files of a run directory say about the run."""
    damage: list[str] = []

    def warn(message: str) -> None:
        damage.append(message.removeprefix(f"{directory}/"))

    # Also of an earlier start: the names in it are still right.
    written = read_or_empty(directory / "summary.json", SUMMARY, warn)
    logged, dataset = points(directory, warn), (written.get("dataset") or {}).get("name")
    last = {point["split"]: point for point in logged}
    train = last.get("train", {})
    checkpoints: list[int] = []
    modified = 0.0
    with suppress(OSError):
        checkpoints = run_layout.steps(directory / run_layout.CHECKPOINTS)
        modified = directory.stat().st_mtime  # changes with every file that is replaced
    running = lock.held(directory)
    summary = {} if running else last_summary(directory)
    known = {name: value for name, value in summary.items() if value is not None}
    status, note = known.get("status", "unknown"), known.get("error")
    updated = logged[-1]["time"] if logged else modified
    if (started := known.get("started")) is not None:
        updated = started + known.get("wall_seconds", 0.0)
    if running:
        status, updated = "running", max(updated, modified)
    elif damage:
        note = note or damage[0]
    elif not summary:
        note = "it ended without a summary: killed, or just created"
    elif asked := written.get("fallback_from"):
        note = note or f"not with {asked}: trained on {dataset}"
    validated, tested = (last.get(split, {}).get("step", 0) for split in ("validation", "test"))
    if tested < validated:  # the test split was evaluated before the run was extended
        last.pop("test", None)
    results = {
        f"{split}_{name}": float(value)
        for split in ("validation", "test")
        for name, value in last.get(split, {}).items()
        if name != "split"
    }
    results |= {k: float(v) for k, v in known.items() if k.startswith(("validation_", "test_"))}
    # Until a start has written its summary, the metrics tell whether the task has an accuracy.
    names = {name.partition("_")[2] for name in results} or {"accuracy"}
    best = written.get("best") or default_best(names)
    metric = best.partition(":")[0]
    return RunInfo(
        directory,
        status,
        note.splitlines()[0] if note else None,
        written.get("experiment"),
        dataset,
        known.get("steps", train.get("step")),
        known.get("epochs"),
        results.get("test_accuracy"),
        best,
        results.get(f"validation_{metric}"),
        results.get(f"test_{metric}"),
        results.get("test_loss"),
        known.get("examples_per_second", train.get("examples_per_second")),
        checkpoints[-1] if checkpoints else None,
        bool(checkpoints) and status not in ("running", "completed"),
        updated or None,
    )


def score_text(best: str, score: float | None) -> str:
    """Return a score for people; with the name of its metric, unless that is the accuracy."""
    metric = best.partition(":")[0]
    if score is None:
        return "-"
    return f"{score:.2%}" if metric == "accuracy" else f"{metric} {score:.4f}"


def last_summary(directory: Path) -> dict[str, Any]:
    """Return summary.json if the last start of the run wrote it; otherwise an empty dictionary.

    A start that is killed writes no summary and leaves the one of an earlier start. So a summary
    has the time in environment.json, which each start writes before it trains.
    """
    summary = read_or_empty(directory / "summary.json", SUMMARY)
    begun = last_start(directory)
    # An older version wrote no such time.
    return summary if begun is None or summary.get("environment", begun) == begun else {}


def points(directory: Path, warn: Callable[[str], object] = lambda _: None) -> list[dict[str, Any]]:
    """Return the points of metrics.jsonl in order; none, and a warning, if it cannot be read."""
    path, read = directory / "metrics.jsonl", list[dict[str, Any]]()
    with ignoring(path, warn):
        read = metrics.read(path)
    return read


def last_start(directory: Path) -> str | None:
    """Return when the last start of a run wrote environment.json; None if there is none."""
    begun = read_or_empty(directory / "environment.json", environment.SHAPE).get("started")
    return None if begun is None else str(begun.isoformat())
