"""summary.json and the closing table: how a run ended."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from trainer.data.dataset import SPLITS, Dataset, size
from trainer.tracking.goodput import PhaseTimer
from trainer.tracking.terminal import metric_text

Summary = dict[str, Any]  # JSON; the keys of begin() and those named in the README
SHAPE = {  # what others read of summary.json
    "status?": frozenset({"completed", "preempted", "failed"}),
    "error?": (str, None),
    "experiment?": (str, None),
    "dataset?": ({"name?": (str, None)}, None),
    "fallback_from?": (str, None),
    "best?": (str, None),
    "metrics?": ([str], None),
    "steps?": (int, None),
    "epochs?": (float, None),
    "examples_per_second?": (float, None),
    "started?": (float, None),
    "wall_seconds?": (float, None),
    "environment?": (str, None),
    "weights_sha256?": (str, None),
    "validation_*": (float, None),
    "test_*": (float, None),
}


def begin(experiment: str, global_batch_size: int, timer: PhaseTimer) -> Summary:
    """Return the report of a run that has done nothing yet."""
    unknown = ["dataset", "validation_accuracy", "validation_loss", "test_accuracy", "test_loss"]
    unknown += ["examples_per_second", "wall_seconds"]
    unknown += ["devices", "processes", "platform", "resumed_from_step", "weights_sha256"]
    return {
        "status": "failed",
        "experiment": experiment,
        **dict.fromkeys(unknown),
        "steps": 0,
        "epochs": 0.0,
        "examples": 0,  # trained on by this start
        "train_seconds": 0.0,
        "global_batch_size": global_batch_size,
        "metrics": [],  # the names of what was measured on the validation and the test split
        "best": None,  # METRIC:max or METRIC:min, by which checkpoints and trials are ranked
        "skipped_steps": 0,
        "error": None,
        "fallback_from": None,  # the data set that was asked for and could not be had
        "environment": None,  # the key `started` of environment.json when this was written
        "seconds": None,
        "started": time.time() - timer.elapsed,
    }


def default_best(metrics: Collection[str]) -> str:
    """Return what checkpoint.best=null stands for, METRIC:max or METRIC:min."""
    return "accuracy:max" if "accuracy" in metrics else "loss:min"


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return the entry `dataset` of summary.json."""
    sizes = {f"{split}_examples": size(examples) for split, examples in dataset.splits.items()}
    return {"name": dataset.name, **sizes, "sha256": dataset.sha256}


def counts(described: Mapping[str, Any]) -> str:
    """Return for people how many examples there are of each split."""
    sizes = ((split, described.get(f"{split}_examples")) for split in SPLITS)
    return " + ".join(f"{count:,} {split}" for split, count in sizes if count) + " examples"


def finish(report: Summary, timer: PhaseTimer) -> None:
    """Fill in the times, and the speed of this start."""
    report["wall_seconds"] = timer.elapsed
    report["train_seconds"], report["seconds"] = timer.training, timer.seconds
    if report["examples"]:
        report["examples_per_second"] = report["examples"] / timer.training


def rows(directory: Path, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the closing table: (name, value)."""
    speed = report["examples_per_second"]
    table = [("status", report["status"])]
    if data := report["dataset"]:
        table.append(("data set", f"{data['name']}, {counts(data)}"))
    table.append(("steps", f"{report['steps']:,} ({round(report['epochs'], 2):g} epochs)"))
    for split in SPLITS[1:]:
        for name in report["metrics"]:
            if (value := report.get(f"{split}_{name}")) is not None:
                table.append((f"{split} {name}", metric_text(name, value)))
    seconds = f"{report['train_seconds']:.1f} s training, {report['wall_seconds']:.1f} s in all"
    table.append(("time", seconds))
    if speed is not None:
        devices = f"{report['devices']} {report['platform']} device(s)"
        table.append(("speed", f"{speed:,.0f} examples/s on {devices}"))
    if goodput := report.get("goodput"):  # of all starts
        parts = {**goodput["seconds"], "lost work": goodput["lost_seconds"]}
        parts["step"] -= goodput["lost_seconds"]
        total = max(sum(parts.values()), 1e-9)
        shares = sorted(((part / total, name) for name, part in parts.items()), reverse=True)
        text = ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= 0.005)
        table.append(("where it went", text))
    return [*table, ("run", str(directory))]
