"""The result of one check."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from trainer.job.errors import EXIT_CONFIG, EXIT_UNAVAILABLE, ConfigError, TrainerError, first_line

OK, WARNING, FAILURE = "ok", "warning", "failure"
RANK = {OK: 0, WARNING: 1, FAILURE: 2}


class Finding(NamedTuple):
    """What one check found on one process; serialises as a JSON list."""

    check: str
    level: str  # ok, warning or failure
    told: str
    fix: str = ""
    code: int = EXIT_UNAVAILABLE  # of a failure


def failure(check: str, error: Exception) -> Finding:
    """Return what a check found that ended with an error."""
    if isinstance(error, TrainerError):
        code = EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_UNAVAILABLE
        return Finding(check, FAILURE, error.message, error.hint, code)
    return Finding(check, FAILURE, first_line(error, kind=True))


def merge(of_processes: list[list[Finding]]) -> list[Finding]:
    """Return one finding a check: the worst of all processes, which it names."""
    merged: dict[str, Finding] = {}
    for index, findings in enumerate(of_processes):
        for found in findings:
            if index and found.level != OK and not found.told.startswith("process "):
                found = found._replace(told=f"process {index}: {found.told}")
            known = merged.get(found.check)
            if known is None or RANK[found.level] > RANK[known.level]:
                merged[found.check] = found
    return list(merged.values())


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0, or the code of the failures: 78 where a configuration is wrong, else 69."""
    return max((found.code for found in findings if found.level == FAILURE), default=0)
