"""The test images to judge a trained model by: those of its run, or a folder's."""

import dataclasses
import os
from functools import partial
from pathlib import Path

from trainer.checkpoint.load_model import Trained, check_shape
from trainer.config.schema import DataConfig
from trainer.data import mnist
from trainer.data.dataset import Split
from trainer.job.directory import expanded
from trainer.job.errors import DataError
from trainer.job.signals import StopRequest
from trainer.tracking.terminal import Terminal


def load(
    trained: Trained, folder: Path | None, terminal: Terminal, stop: StopRequest, *, download: bool
) -> tuple[str, Split]:
    """Return the test split in `folder`, or that of the data set of the run, and its name.

    A folder holds IDX files named as MNIST's. MNIST may be downloaded if `download` and the options
    of the run allow it. A warning says if the data set is not the one that the run saw.

    Raises:
        DataError: the images are missing or wrong.
        Preempted: asked to stop during a download.
    """
    if folder is not None:
        classes = trained.objective.num_classes
        split, shape = mnist.load_test(folder, classes)
        try:
            check_shape(trained, shape)
        except DataError as error:
            raise DataError(f"--data {folder}: {error}: give images of that size") from None
        return str(folder), split
    seen = trained.record["meaning"]["data set"]
    options = trained.record["config"]["data"]  # perhaps of a version that had fewer
    data = DataConfig(**{f.name: options.get(f.name) for f in dataclasses.fields(DataConfig)})
    # The run may have been started in another folder, or been moved with its data since.
    roots = [root for root in (trained.record.get("data_root"), data.root) if root]
    there = [root for root in roots if os.access(expanded(root, "data.root"), os.X_OK)]
    data = dataclasses.replace(
        data,
        root=next(iter([*there, *roots]), None),
        download=data.download and download,
        offline_fallback=False,
    )
    if seen["name"] == "mnist_5k":  # perhaps because MNIST could not be had
        data = dataclasses.replace(data, name="mnist_5k", root=None)
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
    return dataset.name, dataset.test
