"""Which curves share a chart on the page Custom Scalars, and what HParams compares runs by."""

from __future__ import annotations

import dataclasses

from trainer.config import Config
from trainer.tensorboard_summaries import HParams, flatten

CHARTS = {
    "Training": {
        "loss": ["train/loss", "eval/loss"],
        "accuracy": ["train/accuracy", "eval/accuracy"],
        "learning rate": ["train/lr"],
        "accuracy by class": ["eval_class_accuracy/*"],
    },
    "Speed": {
        "examples per second": ["train/examples_per_second"],
        "milliseconds a step": ["time/*_ms"],
        "goodput": ["time/goodput"],
        "seconds of all starts": ["seconds/*"],
        "memory, MiB": ["memory/*"],
    },
    "Layers": {
        "weight norms": ["weight_norm/*"],
        "gradient norms": ["gradient_norm/*"],
    },
}
METRICS = ("eval/accuracy", "eval/loss")
# Of the hyperparameters: few, so that the accuracy stands beside them; others can be ticked.
FIRST = ("model.hidden_sizes", "optim.lr", "run.seed", "train.epochs")

_COMPARED = (
    "run.seed",
    "data.name",
    "data.shuffle",
    "train.epochs",
    "train.global_batch_size",
    "parallel.virtual_shards",
)


def hparams(config: Config, devices: int) -> HParams:
    """Return the options that make one training another; lists as texts like 512-512."""
    flat = flatten(dataclasses.asdict(config))
    names = [name for name in flat if name in _COMPARED or name.startswith(("model.", "optim."))]
    found: dict[str, str | bool | int | float] = {"devices": devices}
    for name in names:
        value = flat[name]
        if isinstance(value, list):
            value = "-".join(str(item) for item in value)
        found[name] = "none" if value is None else value
    return found
