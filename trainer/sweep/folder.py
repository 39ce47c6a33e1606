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
PLAN_SHAPE = {"fixed": [str], "members": {"*": {"*": str}}}  # of sweep.json
ENDING_SHAPE = {"exit_code?": (int, None), "error?": (str, None)}  # of member.json
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
    test_accuracy: float | None = None  # 0 to 1; where there is no validation split, the latest
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
    score: float | None = None  # that metric on the validation split; the latest, until completed
    test_score: float | None = None  # and on the test split


class Group(NamedTuple):
    """Completed trials that differ only in the seed: the mean and the spread of their scores.

    A spread is the sample standard deviation. None: there is none, of a single seed or split.
    """

    values: dict[str, str]  # swept option -> value, without the seed
    seeds: int
    mean: float | None  # on the validation split
    spread: float | None
    test_mean: float | None
    test_spread: float | None
    scores: list[float]  # on the validation split, or without one on the test split


def read_plan(
    folder: Path, warn: Callable[[str], object] = lambda _: None
) -> tuple[list[str], Members]:
    """Return the overrides that all trials share, sorted, and the trials; empty without a sweep."""
    plan = read_or_empty(folder / directory.SWEEP, PLAN_SHAPE, warn)
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
    info, ending = runs.describe(run), read_or_empty(run / ENDING, ENDING_SHAPE)
    status, code = info.status, ending.get("exit_code")
    if status not in ("running", "completed") and code is not None:
        status = "preempted" if code == EXIT_RETRY else "failed"
    elif status == "unknown":
        status = "waiting" if info.newest_checkpoint is None else "interrupted"
    last = runs.last_summary(run) if status == "completed" else {}
    account = read_or_empty(run / "goodput.json", goodput.SHAPE)
    known = {field: value for field, value in info._asdict().items() if field in Result._fields}
    return Result(name, dict(values), **known)._replace(
        status=status,
        seconds=sum(account["seconds"].values()) if "seconds" in account else None,
        starts=account.get("starts"),
        exit_code={"completed": 0, "running": None}.get(status, code),
        error=(ending.get("error") or info.note) if status in ("preempted", "failed") else None,
        weights_sha256=last.get("weights_sha256"),
    )


def best_of(results: Sequence[Result]) -> str:
    """Return METRIC:max or METRIC:min, by which these trials are ranked."""
    # A trial that has not been tested does not know it.
    known = (r.best for r in results if (r.score, r.test_score) != (None, None))
    return next(known, Result._field_defaults["best"])


def cost(best: str, score: float | None) -> float:
    """Return a number that is smaller for a better score; NaN and None are the worst."""
    if score is None or math.isnan(score):
        return math.inf
    return -score if best.endswith(":max") else score


def rank(results: Sequence[Result]) -> list[tuple[int | None, Result]]:
    """Sort by the score on the validation split, best first; completed trials before all others.

    Only completed trials with a score have a rank: the test split selects nothing.
    """
    ordered = sorted(results, key=lambda r: (_ORDER.index(r.status), cost(r.best, r.score)))
    return [
        (place if r.status == "completed" and r.score is not None else None, r)
        for place, r in enumerate(ordered, 1)
    ]


def groups(results: Sequence[Result]) -> list[Group]:
    """Return the means and spreads over the seeds, the best mean first."""
    alike: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in results:
        if result.status == "completed" and (result.score, result.test_score) != (None, None):
            others = tuple((k, v) for k, v in result.values.items() if k != SEED)
            alike.setdefault(others, []).append(result)
    by_values = []
    for values, own in alike.items():
        scores = [r.score for r in own if r.score is not None]
        tested = [r.test_score for r in own if r.test_score is not None]
        figures = (*_mean_and_spread(scores), *_mean_and_spread(tested))
        by_values.append(Group(dict(values), len(own), *figures, scores or tested))
    best = best_of(results)
    return sorted(by_values, key=lambda group: cost(best, group.mean))


def _mean_and_spread(scores: Sequence[float]) -> tuple[float | None, float | None]:
    if not scores:
        return None, None
    mean = statistics.fmean(scores)
    if len(scores) == 1:
        return mean, None
    return mean, statistics.stdev(scores) if math.isfinite(mean) else math.nan
