"""The members of a sweep in the order of their results, and what they are like over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from trainer.sweep.combine import SEED

_ORDER = ("completed", "running", "preempted", "interrupted", "waiting", "failed")


class Result(NamedTuple):
    """How one member stands; None: not known (yet)."""

    name: str
    values: dict[str, str]  # swept option -> value
    status: str  # completed, running, preempted, interrupted (killed), waiting or failed
    test_accuracy: float | None = None  # 0 to 1; the latest of a member that is not completed
    test_loss: float | None = None
    steps: int | None = None
    epochs: float | None = None
    examples_per_second: float | None = None  # trained
    seconds: float | None = None  # of all its starts together
    starts: int | None = None
    exit_code: int | None = None  # of the last start
    error: str | None = None
    weights_sha256: str | None = None


class Group(NamedTuple):
    """Completed members that differ in nothing but the seed."""

    values: dict[str, str]  # swept option -> value, without the seed
    seeds: int
    mean: float  # test accuracy, 0 to 1
    spread: float | None  # its sample standard deviation; None for a single seed
    lowest: float
    highest: float


def rank(results: Sequence[Result]) -> list[Result]:
    """Sort: completed members by accuracy, then loss, best first; the others behind them.

    A loss that is not known or NaN is the worst of all.
    """

    def key(result: Result) -> tuple[int, float, float]:
        if result.status != "completed":
            return _ORDER.index(result.status), 0.0, 0.0
        accuracy, loss = result.test_accuracy, result.test_loss
        if loss is None or math.isnan(loss):
            loss = math.inf
        return 0, -accuracy if accuracy is not None else 1.0, loss

    return sorted(results, key=key)


def groups(results: Sequence[Result]) -> list[Group]:
    """Return the mean and spread over the seeds, the best mean first.

    A member that has not completed is in no group.
    """
    found: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for result in results:
        if result.status == "completed" and result.test_accuracy is not None:
            others = tuple((k, v) for k, v in result.values.items() if k != SEED)
            found.setdefault(others, []).append(result.test_accuracy)
    made = [
        Group(
            dict(values),
            len(accuracies),
            statistics.fmean(accuracies),
            statistics.stdev(accuracies) if len(accuracies) > 1 else None,
            min(accuracies),
            max(accuracies),
        )
        for values, accuracies in found.items()
    ]
    return sorted(made, key=lambda group: -group.mean)


def member_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return the table of the members, ranked, its header first; what is not known is empty."""
    swept = list(dict.fromkeys(key for result in results for key in result.values))
    fields = Result._fields[2:]
    rows = [["rank", "member", *swept, *fields]]
    for position, result in enumerate(rank(results), 1):
        ranked = str(position) if result.status == "completed" else ""
        values = [result.values.get(key, "") for key in swept]
        known = [getattr(result, field) for field in fields]
        told = ["" if value is None else str(value) for value in known]
        rows.append([ranked, result.name, *values, *told])
    return rows


def printed(results: Sequence[Result]) -> list[list[str]]:
    """Return the same table for people, shorter."""
    swept = list(dict.fromkeys(key for result in results for key in result.values))
    header = ["rank", *swept, "status", "test accuracy", "test loss", "steps", "images/s", "time"]
    rows = [[*header, ""]]
    for position, result in enumerate(rank(results), 1):
        rows.append(
            [
                str(position) if result.status == "completed" else "-",
                *(result.values.get(key, "-") for key in swept),
                result.status,
                _text(result.test_accuracy, "{:.2%}"),
                _text(result.test_loss, "{:.4f}"),
                _text(result.steps, "{:,}"),
                _text(result.examples_per_second, "{:,.0f}"),
                _text(result.seconds, "{:.1f} s"),
                (result.error or "") if result.status == "failed" else "",
            ]
        )
    return rows


def printed_groups(results: Sequence[Result]) -> list[list[str]]:
    """Return the table over the seeds for people; nothing where the seed is not swept."""
    if not any(SEED in result.values for result in results):
        return []
    found = groups(results)
    swept = list(dict.fromkeys(key for group in found for key in group.values))
    rows = [[*swept, "seeds", "mean accuracy", "spread", "lowest", "highest"]]
    for group in found:
        rows.append(
            [
                *(group.values.get(key, "-") for key in swept),
                str(group.seeds),
                f"{group.mean:.2%}",
                _text(group.spread, "{:.2%}"),
                f"{group.lowest:.2%}",
                f"{group.highest:.2%}",
            ]
        )
    return rows if found else []


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
