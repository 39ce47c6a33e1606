"""Loads the data set as the trainer does, writes it out for the rivals, describes the machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import own
from trainer.data import mnist
from trainer.tracking import environment
from trainer.tracking.terminal import Terminal


def describe(folder: str, overrides: list[str]) -> dict[str, Any]:
    """Write the four arrays to `folder`, and return the facts of environment.json and more."""
    config = own.configuration(*overrides)
    quiet = Terminal(quiet=True)
    dataset = mnist.load(config.data, progress=quiet.download, poll=lambda: None, warn=quiet.warn)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, array in zip(own.NAMES, (*dataset.train, *dataset.test), strict=True):
        np.save(Path(folder) / f"{name}.npy", array)
    device, pixels = jax.devices()[0], dataset.train.images.shape[1]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        **environment.collect([f"{d.platform} {d.device_kind}" for d in jax.devices()], 1),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "usable_cores": sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1)),
        "dataset": {
            "name": dataset.name,
            "train_examples": len(dataset.train.labels),
            "test_examples": len(dataset.test.labels),
            "pixels": pixels,
        },
        "sizes": [pixels, *config.model.hidden_sizes, config.data.num_classes],
        "pixel_mean": config.data.pixel_mean,
        "pixel_std": config.data.pixel_std,
        "precision": config.model.precision,
    }
