"""summary.json and the closing table: how a run ended, in a few figures."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.data.dataset import Dataset
from trainer.tracking.goodput import PhaseTimer

Report = dict[str, Any]  # JSON; the keys of begin() and those named in the README


def begin(experiment: str, global_batch_size: int, timer: PhaseTimer) -> Report:
    """Return a report of a run of which nothing is known yet."""
    return {
        "status": "failed",
        "experiment": experiment,
        "dataset": None,
        "steps": 0,
        "epochs": 0.0,
        "examples": 0,  # trained on since this start
        "test_accuracy": None,
        "test_loss": None,
        "examples_per_second": None,
        "train_seconds": 0.0,
        "wall_seconds": None,
        "devices": None,
        "processes": None,
        "platform": None,
        "global_batch_size": global_batch_size,
        "resumed_from_step": None,
        "weights_sha256": None,
        "skipped_steps": 0,
        "error": None,
        "seconds": None,
        "started": time.time() - timer.elapsed,
    }


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return what a summary says of a data set."""
    return {
        "name": dataset.name,
        "train_examples": len(dataset.train.labels),
        "test_examples": len(dataset.test.labels),
        "sha256": dataset.sha256,
    }


def finish(report: Report, timer: PhaseTimer) -> None:
    """Fill in the times, and the speed since this start."""
    report["wall_seconds"] = timer.elapsed
    report["train_seconds"], report["seconds"] = timer.training, timer.seconds
    if report["examples"]:
        report["examples_per_second"] = speed(report, timer)


def speed(report: Report, timer: PhaseTimer) -> float:
    """Return the images a second that this process's training took."""
    return float(report["examples"] / timer.training)


def rows(directory: Path, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the lines of the closing table: what, and how much."""
    dataset, accuracy, speed = (
        report[key] for key in ("dataset", "test_accuracy", "examples_per_second")
    )
    table = [("status", report["status"])]
    if dataset:
        counts = f"{dataset['train_examples']:,} + {dataset['test_examples']:,} images"
        table.append(("data set", f"{dataset['name']}, {counts}"))
    table.append(("steps", f"{report['steps']:,} ({report['epochs']:g} epochs)"))
    if accuracy is not None:
        table.append(("test accuracy", f"{accuracy:.2%} (loss {report['test_loss']:.4f})"))
    seconds = f"{report['train_seconds']:.1f} s training, {report['wall_seconds']:.1f} s in all"
    table.append(("time", seconds))
    if speed is not None:
        where = f"{report['devices']} {report['platform']} device(s)"
        table.append(("speed", f"{speed:,.0f} images/s on {where}"))
    if report.get("goodput"):
        table.append(("where it went", _shares(report["goodput"])))
    table.append(("run", str(directory)))
    beside = Path(sys.executable).with_name("tensorboard")
    program = "tensorboard" if shutil.which("tensorboard") or not beside.exists() else str(beside)
    table.append(("follow it with", f"{program} --logdir {shlex.quote(str(directory.parent))}"))
    return table


def _shares(goodput: Mapping[str, Any]) -> str:
    """Say which share of all seconds of all starts each phase had, largest first."""
    seconds = {**goodput["seconds"], "step": goodput["seconds"]["step"] - goodput["lost_seconds"]}
    seconds["lost work"] = goodput["lost_seconds"]
    total = max(sum(seconds.values()), 1e-9)
    shares = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {part / total:.0%}" for name, part in shares if part / total >= 0.005)
