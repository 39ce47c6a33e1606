"""Files of a run read without trust: a job may be killed, or a disk full, at any instant."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from trainer import metrics_log
from trainer.atomic import NONFINITE


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


def points(directory: Path) -> list[dict[str, Any]]:
    """Return what a run has logged, in its order."""
    try:
        return metrics_log.read(directory / "metrics.jsonl")
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
