"""What the files of a run directory say, whatever state the run is in."""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trainer.job import directory as run_layout
from trainer.job import lock
from trainer.job.files import ignoring, read_or_empty
from trainer.tracking import environment, goodput, metrics
from trainer.tracking import summary as summaries


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

    # Its names are right even if it is outdated.
    written = read_or_empty(directory / "summary.json", summaries.SHAPE, warn)
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
    updated = end_time(summary) or (logged[-1]["time"] if logged else modified)
    if running:
        status, updated = "running", max(updated, modified)
    elif damage:
        note = note or damage[0]
    elif not summary:
        note = "it ended without a summary: killed, or just created"
    elif asked := written.get("fallback_from"):
        note = note or f"not with {asked}: trained on {dataset}"
    validated, tested = (last.get(split, {}).get("step", 0) for split in ("validation", "test"))
    if tested < validated:  # it is of the end of a run that was extended since
        last.pop("test", None)
    # A start writes it at its end, and another default is that of a task without an accuracy.
    results = {
        f"{split}_{name}": float(value)
        for split in ("validation", "test")
        for name, value in last.get(split, {}).items()
        if name != "split"
    }
    results |= {k: float(v) for k, v in known.items() if k.startswith(("validation_", "test_"))}
    names = {name.partition("_")[2] for name in results}
    best = written.get("best") or (
        "loss:min" if names and "accuracy" not in names else "accuracy:max"
    )
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
    names the environment.json beside it, which each start writes before it trains. Of an older
    version, it is outdated if the clock says so, or if goodput.json counts more starts.
    """
    summary = read_or_empty(directory / "summary.json", summaries.SHAPE)
    begun = read_or_empty(directory / "environment.json", environment.SHAPE).get("started")
    if begun is not None and "environment" in summary:
        return summary if summary["environment"] == begun.isoformat() else {}
    account = read_or_empty(directory / "goodput.json", goodput.SHAPE)
    later = account.get("starts", 0) > (summary.get("goodput") or {}).get("starts", math.inf)
    later |= begun is not None and (end_time(summary) or 0.0) < begun.timestamp()
    return {} if later else summary


def points(directory: Path, warn: Callable[[str], object] = lambda _: None) -> list[dict[str, Any]]:
    """Return the points of metrics.jsonl in order; none, and a warning, if it cannot be read."""
    path, read = directory / "metrics.jsonl", list[dict[str, Any]]()
    with ignoring(path, warn):
        read = metrics.read(path)
    return read


def mark(report: dict[str, Any], directory: Path) -> None:
    """Note in a summary which environment.json lies beside it: see `last_summary`."""
    begun = read_or_empty(directory / "environment.json", environment.SHAPE).get("started")
    report["environment"] = begun and begun.isoformat()


def end_time(summary: dict[str, Any]) -> float | None:
    """Return when the start that wrote a summary ended, in unix seconds."""
    started = summary.get("started")
    return None if started is None else float(started + (summary.get("wall_seconds") or 0.0))
