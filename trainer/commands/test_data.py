"""The test examples of a run, or of a folder, and the results of a trained model on them."""

import os
from functools import partial
from pathlib import Path

import jax

from trainer.checkpoint.load_model import Trained, checked
from trainer.config import user_module, user_sources
from trainer.config.schema import data_config
from trainer.data.dataset import Examples
from trainer.data.report import Report
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError
from trainer.job.signals import StopRequest
from trainer.parallel import compiler, sharding
from trainer.parallel import mesh as meshes
from trainer.parallel.evaluation import Evaluation, Evaluator, make_eval_step
from trainer.sources import load as data_sets
from trainer.sources import mnist
from trainer.tasks import digit_pictures
from trainer.tracking.terminal import Terminal


def evaluate(trained: Trained, examples: Examples) -> Evaluation:
    """Test a model as a run does: on one device, or on all here if the run shared its weights."""
    config, weights, task = trained.record["config"], trained.weights, trained.task
    shard_state = config["parallel"].get("shard_state", "none")  # older runs have none
    mesh = meshes.make_mesh(None if shard_state == "all" else 1)
    options = compiler.xla_options(jax.default_backend(), False, shard_state == "all")
    step = make_eval_step(task, mesh, None, options, shard_state)
    batch_size = config["train"]["eval_batch_size"]
    evaluator = Evaluator(step, task.metric_names, examples, mesh, batch_size)
    return evaluator(meshes.spread(sharding.of_weights(weights, mesh, shard_state), weights))


def load(
    trained: Trained, folder: Path | None, terminal: Terminal, stop: StopRequest, *, download: bool
) -> tuple[str, Examples]:
    """Return the name and the test split of the data set of the run, or of a folder.

    A folder holds IDX files named as MNIST's. MNIST may be downloaded if `download` and the options
    of the run allow it. A warning says if the data set is not the one that the run saw.

    Raises:
        ConfigError: the user's data module is wrong, or the model takes no folder of images.
        DataError: the examples are missing or wrong.
        Preempted: asked to stop during a download.
    """
    fields = trained.task.example
    is_image = digit_pictures.is_image(fields, [name for name in fields if name != "label"])
    if folder is not None:
        if not is_image:
            hint = "leave it out: only models of one image and a label can be tested on others"
            raise ConfigError(f"--data {folder}: the model reads {', '.join(fields)}", hint)
        examples = mnist.load_test(folder, trained.classes or 256)
        try:
            return str(folder), checked(trained, examples, fields)
        except DataError as error:
            raise DataError(f"--data {folder}: {error}: give images of that size") from None
    seen, data = trained.dataset, data_config(trained.record["config"]["data"])
    if data.module is not None:
        recorded = trained.record.get("data_module")
        data.module = user_sources.of_run(trained.run, "data", data.module, recorded)
        module = user_module.load("data.module", data.module)
        data.options = user_module.options("data.options", module, "DataOptions", data.options)
    # The run may have been started in another folder, or been moved with its data since.
    roots = [root for root in (trained.record.get("data_root"), data.root) if root]
    there = [root for root in roots if os.access(expanded(root, "data.root"), os.X_OK)]
    data.root = next(iter([*there, *roots]), None)
    data.download, data.offline_fallback = data.download and download, False
    if data.name == "mnist" and seen["name"] == "mnist_5k":  # perhaps MNIST could not be had
        data.name, data.root = "mnist_5k", None
    poll = partial(stop.check, "during the download")
    try:
        dataset = data_sets.load(data, Report(terminal.download, poll, terminal.warn))
        examples = checked(trained, dataset.test, fields)
    except DataError as error:
        hint = "\nOr name the folder of the test images: --data DIR" if is_image else ""
        raise DataError(f"{error}{hint}") from None
    if dataset.sha256 != seen["sha256"]:
        name = dataset.name if data.name == "module" else data.name
        terminal.warn(f"{name} is not, bit by bit, the data set that the run was trained on")
    return dataset.name, examples
