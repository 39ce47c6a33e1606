"""What the files of a run directory say, while its processes run and after their end. No jax."""

import difflib
import os
import random
import re
from pathlib import Path

from trainer.job import directory
from trainer.job.files import read_or_empty
from trainer.tracking import environment, runs

CLOCKED = ("time", "examples_per_second")  # may differ between two runs of the same bits


def committed(run: Path) -> list[int]:
    """Return the steps that have a committed checkpoint, oldest first."""
    return directory.steps(run / directory.CHECKPOINTS)


def step_reached(run: Path, since: float) -> int | None:
    """Return the last step logged after `since`, in unix seconds; None if there is none."""
    # The log has milliseconds, rounded.
    steps = [point["step"] for point in runs.points(run) if point["time"] >= since - 0.001]
    return max(steps, default=None)


def resumed_from(log: str) -> int | None:
    """Return the step that a process resumed from, according to its output; None if it did not."""
    match = re.search(r"resuming after step ([\d,]+)", log)
    return int(match[1].replace(",", "")) if match else None


def differences(unbroken: Path, broken: Path) -> list[str]:
    """Compare two completed runs; return a diff of all that must be equal, empty if it is."""
    one, other = _results(unbroken), _results(broken)
    diff = difflib.unified_diff(one, other, "unbroken", "interrupted", n=0, lineterm="")
    return [line for line in diff if not line.startswith("@@")]


def _results(run: Path) -> list[str]:
    versions = read_or_empty(run / "environment.json", environment.SHAPE).get("versions")
    lines = [f"environment.json: {versions}"]  # another program may round in another way
    summary = runs.last_summary(run)
    compared = [
        "steps",
        "weights_sha256",
        "ema_sha256",
        *sorted(n for n in summary if n.startswith(("validation_", "test_"))),
    ]
    lines += [f"summary.json: {name}: {summary.get(name)!r}" for name in compared]
    for point in runs.points(run):
        values = {name: value for name, value in point.items() if name not in CLOCKED}
        lines.append(f"metrics.jsonl: {point['split']} {point['step']}: {values}")
    return lines


def flip_bit(run: Path, step: int, rng: random.Random) -> str:
    """Flip one bit of the largest file of a checkpoint; return the file's name."""
    folder = run / directory.CHECKPOINTS / str(step)
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: (p.stat().st_size, p))
    place, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))
        os.fsync(file.fileno())
    return str(path.relative_to(run))
