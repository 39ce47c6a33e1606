"""The folder of a sweep: its trials, and the state of each as its run directory shows it."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainer.job import directory, lock
from trainer.job.errors import EXIT_RETRY, ConfigError, writing
from trainer.job.files import read_or_empty, write_json
from trainer.tracking import goodput, runs, summary

SEED = "run.seed"
LOCK, OUTPUT, ENDING = "sweep.lock", "output.log", "member.json"
TURN = "sweep.turn"  # locked to write: no task of a job array replaces a newer file by an older one
PLAN = {"fixed": [str], "members": {"*": {"*": str}}}  # the shape of sweep.json
TOLD = {"exit_code?": (int, None), "error?": (str, None)}  # and of member.json
_ORDER = ("completed", "running", "preempted", "interrupted", "waiting", "failed")

Members = Mapping[str, Mapping[str, str]]  # name of a trial -> swept option -> value


class Trial(NamedTuple):
    """One training run of a sweep."""

    name: str  # of its folder
    values: dict[str, str]  # swept option -> its value, both as on the command line
    overrides: tuple[str, ...]  # the command line that trains it


class Result(NamedTuple):
    """The state of one trial; None: not known (yet)."""

    name: str
    values: dict[str, str]  # swept option -> value
    status: str  # completed, running, preempted, interrupted (killed), waiting or failed
    test_accuracy: float | None = None  # 0 to 1; the latest, if the trial is not completed
    test_loss: float | None = None
    steps: int | None = None
    epochs: float | None = None
    examples_per_second: float | None = None  # trained
    seconds: float | None = None  # of all its starts together
    starts: int | None = None
    exit_code: int | None = None  # of the last start
    error: str | None = None
    weights_sha256: str | None = None
    best: str = "accuracy:max"  # METRIC:max or METRIC:min, by which trials are ranked
    score: float | None = None  # that metric; the latest, if the trial is not completed

    @property
    def cost(self) -> float:
        """The score as a number that is smaller for better trials; NaN and None are the worst."""
        return _cost(self.best, math.nan if self.score is None else self.score)


class Group(NamedTuple):
    """Completed trials that differ only in the seed, and their scores."""

    values: dict[str, str]  # swept option -> value, without the seed
    seeds: int
    mean: float
    spread: float | None  # the sample standard deviation; None for a single seed
    lowest: float
    highest: float
    scores: list[float]


def read_plan(
    folder: Path, warn: Callable[[str], object] = lambda _: None
) -> tuple[list[str], Members]:
    """Return the overrides that all trials share, sorted, and the trials; empty without a sweep."""
    plan = read_or_empty(folder / directory.SWEEP, PLAN, warn)
    return plan.get("fixed", []), plan.get("members", {})


def add(
    folder: Path,
    fixed: Sequence[str],
    trials: Iterable[Trial],
    warn: Callable[[str], object] = lambda _: None,
) -> None:
    """Add trials to sweep.json, to a new one and with a warning if it is damaged.

    Raises:
        SaveError, ConfigError: it cannot be written.
    """
    with writing(folder), lock.turn(folder / TURN):
        _, before = read_plan(folder, warn)
        members = {**before, **{trial.name: trial.values for trial in trials}}
        if members != before:
            write_json(folder / directory.SWEEP, {"fixed": sorted(fixed), "members": members})


def finished(run: Path) -> bool:
    """Return whether a trial has completed."""
    return read_or_empty(run / "summary.json", summary.SHAPE).get("status") == "completed"


def results(folder: Path) -> list[Result]:
    """Return the state of all trials of a sweep; ConfigError if there is no sweep."""
    _, members = read_plan(folder)
    if not members:
        raise ConfigError(
            f"DIR={folder}: {directory.SWEEP} is missing or damaged",
            "give a folder that `python -m trainer -m ...` has printed",
        )
    return [result(folder, name, values) for name, values in members.items()]


def result(folder: Path, name: str, values: Mapping[str, str]) -> Result:
    """Return the state of one trial, also while it runs."""
    run = folder / name
    info, ending = runs.describe(run), read_or_empty(run / ENDING, TOLD)
    status, code = info.status, ending.get("exit_code")
    if status not in ("running", "completed") and code is not None:
        status = "preempted" if code == EXIT_RETRY else "failed"
    elif status == "unknown":
        status = "waiting" if info.newest_checkpoint is None else "interrupted"
    last = runs.last_summary(run) if status == "completed" else {}
    account = read_or_empty(run / "goodput.json", goodput.SHAPE)
    return Result(
        name=name,
        values=dict(values),
        status=status,
        test_accuracy=info.test_accuracy,
        test_loss=info.test_loss,
        steps=info.steps,
        epochs=info.epochs,
        examples_per_second=info.examples_per_second,
        seconds=sum(account["seconds"].values()) if "seconds" in account else None,
        starts=account.get("starts"),
        exit_code={"completed": 0, "running": None}.get(status, code),
        error=(ending.get("error") or info.note) if status in ("preempted", "failed") else None,
        weights_sha256=last.get("weights_sha256"),
        best=info.best,
        score=info.score,
    )


def best_of(results: Sequence[Result]) -> str:
    """Return METRIC:max or METRIC:min, by which these trials are ranked."""
    # A trial that has not been tested does not know it.
    return next((r.best for r in results if r.score is not None), Result._field_defaults["best"])


def _cost(best: str, score: float) -> float:
    return math.inf if math.isnan(score) else -score if best.endswith(":max") else score


def rank(results: Sequence[Result]) -> list[tuple[int | None, Result]]:
    """Sort by score, then loss, best first; completed trials first, and only these ranked."""

    def key(result: Result) -> tuple[int, float, float]:
        loss = math.inf if result.test_loss is None else result.test_loss
        loss = math.inf if math.isnan(loss) else loss  # the worst of all
        return _ORDER.index(result.status), result.cost, loss

    ordered = enumerate(sorted(results, key=key), 1)
    return [(place if result.status == "completed" else None, result) for place, result in ordered]


def groups(results: Sequence[Result]) -> list[Group]:
    """Return the mean and spread over the seeds, the best mean first."""
    scores: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for result in results:
        if result.status == "completed" and result.score is not None:
            others = tuple((k, v) for k, v in result.values.items() if k != SEED)
            scores.setdefault(others, []).append(result.score)
    by_values = []
    for values, own in scores.items():
        mean, spread = statistics.fmean(own), None if len(own) == 1 else math.nan
        if len(own) > 1 and math.isfinite(mean):
            spread = statistics.stdev(own)
        by_values.append(Group(dict(values), len(own), mean, spread, min(own), max(own), own))
    best = best_of(results)
    return sorted(by_values, key=lambda group: _cost(best, group.mean))
