"""The test images to judge a trained model by: those of its run, or a folder's."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainer.checkpoint.load_model import Trained, check_shape
from trainer.config.schema import DataConfig
from trainer.data import mnist
from trainer.data.dataset import Split
from trainer.job.directory import expanded
from trainer.job.errors import DataError
from trainer.job.signals import StopRequest
from trainer.tracking.terminal import Terminal


class TestData(NamedTuple):
    """A split and where it is from."""

    name: str
    split: Split


def load(
    trained: Trained, folder: Path | None, terminal: Terminal, stop: StopRequest, *, download: bool
) -> TestData:
    """Return the test images and labels in `folder`; None: those of the data set of the run.

    Args:
        trained: the model and what its run has recorded.
        folder: of IDX files named as MNIST's.
        terminal: is warned when the data set is not the one that the run saw.
        stop: whether somebody asked for a stop during a download.
        download: whether MNIST may be downloaded, if the run might.

    Raises:
        DataError: the images are missing or wrong.
        Preempted: asked to stop.
    """
    if folder is not None:
        classes = trained.objective.num_classes
        split, shape = mnist.load_test(folder, classes)
        try:
            check_shape(trained, shape)
        except DataError as error:
            raise DataError(f"--data {folder}: {error}: give images of that size") from None
        return TestData(str(folder), split)
    seen = trained.record["meaning"]["data set"]
    options = trained.record["config"]["data"]
    try:
        data = DataConfig(**{f.name: options[f.name] for f in dataclasses.fields(DataConfig)})
    except KeyError as error:
        raise DataError(
            f"{trained.run} was trained by another version of the trainer, which had no "
            f"data.{error.args[0]}: name the folder of the test images with --data DIR"
        ) from None
    there = trained.record.get("data_root")
    if data.root is not None and there is not None:
        moved = not os.access(there, os.X_OK) and os.access(
            expanded(data.root, "data.root"), os.X_OK
        )
        data = dataclasses.replace(data, root=data.root if moved else there)
    if seen["name"] == "mnist_5k":  # perhaps because MNIST could not be had
        data = dataclasses.replace(data, name="mnist_5k", root=None)
    data = dataclasses.replace(data, download=data.download and download, offline_fallback=False)
    try:
        dataset = mnist.load(
            data,
            progress=terminal.download,
            poll=partial(stop.check, "during the download"),
            warn=terminal.warn,
        )
    except DataError as error:
        raise DataError(f"{error}\nOr name the folder of the test images: --data DIR") from None
    if dataset.sha256 != seen["sha256"]:
        terminal.warn(f"{data.name} is not, bit by bit, the data set that the run was trained on")
    return TestData(dataset.name, dataset.test)
