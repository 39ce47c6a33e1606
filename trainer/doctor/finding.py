"""The result of one check."""

from collections.abc import Iterable
from typing import NamedTuple

from trainer.job.errors import EXIT_CONFIG, EXIT_UNAVAILABLE, ConfigError, TrainerError, first_line

OK, WARNING, FAILURE = LEVELS = ("ok", "warning", "failure")


class Concern(TrainerError):
    """A check raises it if a job would run, but not well."""


class Finding(NamedTuple):
    """The result of one check on one process; serialises as a JSON list."""

    check: str
    level: str  # ok, warning or failure
    message: str
    hint: str = ""
    code: int = EXIT_UNAVAILABLE  # of a failure


def from_error(check: str, error: Exception) -> Finding:
    """Return the finding of a check that raised an error."""
    if not isinstance(error, TrainerError):
        return Finding(check, FAILURE, first_line(error, kind=True))
    level = WARNING if isinstance(error, Concern) else FAILURE
    code = EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_UNAVAILABLE
    return Finding(check, level, error.message, error.hint, code)


def merge(of_processes: Iterable[Iterable[Finding]]) -> list[Finding]:
    """Return one finding per check: the worst of all processes, which it names."""
    merged: dict[str, Finding] = {}
    for index, findings in enumerate(of_processes):
        for finding in findings:
            if index and finding.level != OK and not finding.message.startswith("process "):
                finding = finding._replace(message=f"process {index}: {finding.message}")
            worst = merged.setdefault(finding.check, finding)
            if LEVELS.index(finding.level) > LEVELS.index(worst.level):
                merged[finding.check] = finding
    return list(merged.values())


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0, or the code of the failures: 78 where a configuration is wrong, else 69."""
    return max((finding.code for finding in findings if finding.level == FAILURE), default=0)
