"""What a run directory shows from outside, while its processes run and after they are dead.

Reads the files of the contract alone; nothing here imports jax.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from trainer.job import directory as checkpoints
from trainer.job import lock
from trainer.tracking import environment, runs

COMPARED = ("steps", "test_loss", "test_accuracy", "weights_sha256")
CLOCKED = ("time", "examples_per_second")  # what may differ between two runs of the same bits
PHASES = ("start-up", "restore", "compile", "training", "evaluation", "saving", "deletion")


def program() -> str:
    """Return a digest of the trainer's own files: another program may round in another way."""
    return environment.source("**/*.py", "**/*.yaml", "../conf/**/*")


def committed(run: Path) -> list[int]:
    """Return the steps that have a committed checkpoint, oldest first."""
    return checkpoints.steps(run / checkpoints.CHECKPOINTS)


def set_aside(run: Path) -> Counter[int]:
    """Return how often a checkpoint of each step was set aside as damaged."""
    paths = (run / checkpoints.CHECKPOINTS).glob(f"{checkpoints.ASIDE}*")
    return Counter(int(found[1]) for path in paths if (found := re.match(r"\D*(\d+)", path.name)))


def summary(run: Path, since: float = 0.0) -> dict[str, Any]:
    """Return summary.json, or nothing where there is none of a start after `since`."""
    found = runs.read_or_empty(run / "summary.json")
    # The kernel tells the start of a process to a hundredth of a second.
    return found if (runs.number(found.get("started")) or 0.0) >= since - 0.02 else {}


def step_reached(run: Path, since: float) -> int | None:
    """Return the last step logged after `since`; None: no step yet."""
    return max((point["step"] for point in _logged(run, since)), default=None)


def evaluated(run: Path) -> frozenset[int]:
    """Return the steps after which a run was evaluated."""
    return frozenset(point["step"] for point in runs.points(run) if point["split"] == "eval")


def phase(run: Path, since: float, evaluations: frozenset[int]) -> str:
    """Tell, by the files, what a start that began at `since` is at: one of PHASES.

    Args:
        run: directory of the run.
        since: unix seconds.
        evaluations: the steps after which an unbroken run is evaluated. Whether one is under way
            shows only where training logs that step too.
    """
    if not _newer(run / lock.NAME, since):
        return "start-up"
    if not _newer(run / "environment.json", since):
        return "restore"
    logged = _logged(run, since)
    if not logged:
        return "compile"
    if logged[-1]["split"] == "train" and logged[-1]["step"] in evaluations:
        return "evaluation"
    names = [path.name for path in (run / checkpoints.CHECKPOINTS).glob("*")]
    for prefix, name in ((checkpoints.TRASH, "deletion"), (checkpoints.WRITING, "saving")):
        if any(each.startswith(prefix) for each in names):
            return name
    return "training"


def resumed_from(log: str) -> int | None:
    """Return the step after which a process said that it goes on; None: it said nothing."""
    found = re.search(r"resuming after step ([\d,]+)", log)
    return int(found[1].replace(",", "")) if found else None


def differences(unbroken: Path, broken: Path) -> list[str]:
    """Say in a line each where two completed runs differ; none: they are equal to the bit.

    Args:
        unbroken: directory of the run to compare with.
        broken: directory of the other.
    """
    one, other = summary(unbroken), summary(broken)
    lines = [
        f"summary.json: {name} is {one.get(name)} unbroken, {other.get(name)} interrupted"
        for name in COMPARED
        if repr(one.get(name)) != repr(other.get(name))
    ]
    lines += repeated(runs.points(broken))
    expected, got = _by_step(runs.points(unbroken)), _by_step(runs.points(broken))
    if list(expected) != list(got) and set(expected) == set(got):
        lines.append("metrics.jsonl: the same points in another order")
    for key in dict.fromkeys([*expected, *got]):
        was, is_ = expected.get(key), got.get(key)
        split, step = key
        if repr(was) != repr(is_):
            told = f"{was or 'missing'} unbroken, {is_ or 'missing'} interrupted"
            lines.append(f"metrics.jsonl: {split} {step}: {told}")
    return lines


def repeated(logged: list[dict[str, Any]]) -> list[str]:
    """Say which points of a log are there more than once."""
    counts = Counter((point["split"], point["step"]) for point in logged)
    return [
        f"metrics.jsonl: {split} {step} is there {count} times"
        for (split, step), count in counts.items()
        if count > 1
    ]


def flip_bit(run: Path, step: int, rng: random.Random) -> str:
    """Flip one bit of the largest file of a checkpoint; return the file's name."""
    folder = run / checkpoints.CHECKPOINTS / str(step)
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p))
    place, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
        os.fsync(file.fileno())
    return str(path.relative_to(run))


def _logged(run: Path, since: float) -> list[dict[str, Any]]:
    return [point for point in runs.points(run) if point["time"] >= since - 0.001]


def _by_step(logged: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        (point["split"], point["step"]): {k: v for k, v in point.items() if k not in CLOCKED}
        for point in logged
    }


def _newer(path: Path, since: float) -> bool:
    try:
        # File systems keep time by a clock that lags some milliseconds behind.
        return path.stat().st_mtime >= since - 0.01
    except OSError:
        return False
