"""Runs that are trained once, for the tests of what is done with a trained model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.harm import flip_a_bit, largest_file
from support.program import Trainer

from trainer.commands import train as train_command
from trainer.formats import idx
from trainer.job import lock
from trainer.job.errors import TrainerError
from trainer.job.signals import StopRequest
from trainer.sources.mnist import FILES

# Three epochs of the main job's recipe, less wide: 98 % on MNIST in 3 s.
MNIST = ("+experiment=mlp", "model.hidden_sizes=[128]", "train.epochs=3", "run.dir=mnist")
SMOKE = ("+experiment=smoke", "run.dir=smoke")


def trained_once(tmp_path_factory, name: str, train: Callable[[Path], Path]) -> Path:
    """Make a run once for all workers of pytest-xdist, which share the parent of their folders."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, done = root / f"run-of-{name}", root / f"run-of-{name}.txt"
    with lock.turn(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            done.write_text(str(train(folder)))
    return Path(done.read_text())


def train(folder: Path, *arguments: str) -> Path:
    """Train in a folder; return the run directory."""
    done = Trainer(folder)(*arguments)
    assert done.returncode == 0, done.stderr
    return folder / arguments[-1].removeprefix("run.dir=")


def train_here(*arguments: str) -> int:
    """Train in this process on its first device, faster than in one of its own; return the code."""
    devices = [a for a in arguments if a.startswith("parallel.devices=")] or ["parallel.devices=1"]
    others = [a for a in arguments if not a.startswith("parallel.devices=")]
    try:
        return train_command.main([*others, *devices], StopRequest())
    except TrainerError as error:
        return error.exit_code


def train_on_three_kinds(folder: Path) -> Path:
    """Train on images of 8 x 6 pixels in 3 classes, in IDX files of a relative data.root."""
    (folder / "images").mkdir()
    chance = np.random.default_rng(0)
    for images, labels, count in ((*FILES[:2], 600), (*FILES[2:], 90)):
        kinds = chance.integers(0, 3, count, np.uint8)
        pixels = chance.integers(0, 60, (count, 8, 6), np.uint8)
        pixels[np.arange(count), 2 * kinds] += 150  # a bright row, another for each class
        for name, array in ((images, pixels), (labels, kinds)):
            (folder / "images" / name).write_bytes(idx.header(array.shape) + array.tobytes())
    return train(
        folder,
        *("+experiment=smoke", "data=idx", "data.root=images", "data.num_classes=3"),
        *("train.epochs=2", "run.dir=kinds"),
    )


def damage(run: Path, step: int) -> None:
    """Damage the arrays of one checkpoint."""
    flip_a_bit(largest_file(run / "checkpoints" / str(step)))


def copy(run: Path, target: Path) -> Path:
    """Copy a run, to do harm to the copy."""
    return Path(shutil.copytree(run, target))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file of a run."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def everything(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Names, times and contents of all that is in a folder: what must not change."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [folder, *folder.rglob("*")]
    }
