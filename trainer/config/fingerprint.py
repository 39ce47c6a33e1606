"""Which options make one training another, and in what two trainings differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.config.schema import Config

# What may not change when a run goes on: with another value it would be another training.
MEANING = (
    "run.seed",
    "run.legacy_prng",
    "data.num_classes",
    "data.shuffle",
    "data.pixel_mean",
    "data.pixel_std",
    "model",
    "optim",
    "train.global_batch_size",
    "parallel.virtual_shards",
)


def meaning(config: Config, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return, as JSON, what determines the weights that a run ends with."""
    kept = select(dataclasses.asdict(config), MEANING)
    if config.optim.schedule != "constant":  # it is stretched over all epochs
        kept["train.epochs"] = config.train.epochs
    return {**kept, "data set": dict(dataset)}


def select(options: Mapping[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """Return path -> value of some options or whole sections; None where there is none."""
    found = {}
    for path in paths:
        section, _, field = path.partition(".")
        values = options.get(section)
        if field:
            values = values.get(field) if isinstance(values, Mapping) else None
        found[path] = values
    return found


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in a line each where two meanings differ, by the options' names."""
    lines = []
    for path in [*before, *(path for path in now if path not in before)]:
        was, is_ = before.get(path), now.get(path)
        if isinstance(was, dict) and isinstance(is_, dict):
            lines += [f"{path}.{line}" for line in differences(was, is_)]
        elif was != is_:
            lines.append(f"{path}: {was} there, {is_} here")
    return lines
