"""The task that a configuration names, and the one that a checkpoint was saved with."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainer.config import user_module, user_sources
from trainer.config.schema import AugmentConfig, DataConfig, ModelConfig
from trainer.data.dataset import Dataset
from trainer.formats import idx
from trainer.functional import augment
from trainer.job.errors import ConfigError, DataError
from trainer.tasks import mlp, module
from trainer.tasks.checks import OPTION
from trainer.tasks.task import Example, Task

Record = dict[str, Any]  # JSON, kept in checkpoints
CHANGES = ("shift", "crop", "flip", "cutout")  # functions of augment, in this order


def make(model: ModelConfig, data: DataConfig, dataset: Dataset) -> tuple[Task, Record]:
    """Return the task, and what a checkpoint has to keep to make it again.

    Raises:
        ConfigError: the user's module is wrong, or the data do not fit the model.
        DataError: all pixels of the training images are equal, or a label is none of the classes.
    """
    task, record = _make(model, data, dataset)
    if task.prediction is not None:  # it classifies; a label beyond its logits would have no loss
        weights = task.shapes
        logits = jax.eval_shape(lambda x, w: task.fwd(x, w, None), task.example, weights)
        (classes,) = jax.tree.leaves(logits)[0].shape
        names = dataset.class_names
        if model.name == "module" and len(names) > classes:
            message = f"{OPTION}={model.module}: fwd returns {classes} logits, and the data have "
            hint = "let it return one for each"
            raise ConfigError(f"{message}{len(names)} classes: {', '.join(names)}", hint)
        for split, examples in dataset.splits.items():
            idx.labels(np.asarray(examples["label"]), f"data set {dataset.name}, {split}", classes)
        if names:
            if len(names) != classes:
                message = f"data.class_names={list(names)}: the model tells {classes} classes apart"
                raise ConfigError(message, "give one name for each, in the order of the labels")
            record["class_names"] = list(names)
    if dataset.columns is not None:
        record["columns"] = dataset.columns._asdict()
    return task, record


def augmented(task: Task, options: AugmentConfig) -> Task:
    """Return a task whose images are changed at random in training, before its own `augment`.

    Raises:
        ConfigError: the examples have no images, or a number does not fit their size.
    """
    used = {name: value for name, value in vars(options).items() if value}
    shape = task.example["image"].shape if "image" in task.example else ()
    for name, value in used.items():
        if len(shape) not in (2, 3):
            fields = ", ".join(f"{field} {list(x.shape)}" for field, x in task.example.items())
            typed = "true" if value is True else value
            message = f"augment.{name}={typed}: the data set has {fields}"
            hint = "it needs `image`, (rows, columns) or (rows, columns, channels)"
            raise ConfigError(message, hint)
        if name in ("shift", "crop", "cutout") and value >= (least := min(shape[:2])):
            message = f"augment.{name}={value}: images have the shape {list(shape)}"
            raise ConfigError(message, f"use a number below {least}")

    then = task.augment

    def change(example: Example, key: jax.Array) -> Example:
        image, keys = example["image"], jax.random.split(key, len(CHANGES) + 1)
        for own, name in zip(keys, CHANGES, strict=False):
            if name in used:
                arguments = () if used[name] is True else (used[name],)
                image = getattr(augment, name)(image, own, *arguments)
        example = {**example, "image": image}
        return example if then is None else then(example, keys[-1])

    def mix(example: Example, other: Example, key: jax.Array) -> tuple[Example, jax.Array]:
        image, share = augment.mixup(example["image"], other["image"], key, used["mixup"])
        return {**example, "image": image}, share

    if used.keys() & set(CHANGES):
        task = task._replace(augment=change)
    return task._replace(mix=mix) if "mixup" in used else task


def _make(model: ModelConfig, data: DataConfig, dataset: Dataset) -> tuple[Task, Record]:
    example = {
        name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
        for name, array in dataset.train.items()
    }
    if model.name == "module":
        assert model.module is not None
        own = user_module.load(OPTION, model.module)
        record = {
            "example": {name: [str(x.dtype), list(x.shape)] for name, x in example.items()},
            "module": str(user_module.file_of(OPTION, model.module)),
            "module_sha256": user_sources.digests(user_sources.sources(own))[0],
        }
        return module.make(own, model.options, example), record
    image, label = example.get("image"), example.get("label")
    fits = label is not None and label.shape == () and label.dtype.kind in "iu"
    if image is None or image.dtype != np.uint8 or label is None or not fits:
        fields = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in example.items())
        message = f"model=mlp: data set {dataset.name} has {fields}"
        hint = "it needs `image`, uint8, and `label`, integers; for others bring model=module"
        raise ConfigError(message, hint)
    mean, std = 0.0, 1.0
    if model.pixels != "raw":
        images = dataset.train["image"]
        mean, std = mlp.pixel_statistics(dataset.name, images, data.pixel_mean, data.pixel_std)
    classes = data.num_classes or max(len(dataset.class_names), np.max(dataset.train["label"]) + 1)
    objective = mlp.Objective(str(model.loss), int(classes), mean, std, str(model.precision))
    form = {"image_shape": list(image.shape), "label_dtype": str(label.dtype)}
    sizes, initializer = model.hidden_sizes or (), str(model.kernel_initializer)
    task = mlp.make(objective, image.shape, sizes, initializer, str(label.dtype))
    return task, {"objective": {**objective._asdict(), **form}}


def from_record(record: Mapping[str, Any], run: Path, warn: Callable[[str], None]) -> Task:
    """Return the task that a checkpoint was saved with.

    Args:
        record: that of the checkpoint.
        run: the run directory, which keeps a copy of the user's module.
        warn: gets a message if the user's module has changed since.

    Raises:
        ConfigError: the user's module is missing or wrong.
        DataError: the checkpoint is of a newer version of the trainer.
    """
    model = record["config"]["model"]
    if "objective" in record:
        objective, shape = objective_of(record)
        dtype = record["objective"].get("label_dtype", "uint8")  # that of older versions
        return mlp.make(objective, shape, model["hidden_sizes"], model["kernel_initializer"], dtype)
    if "example" not in record:
        raise DataError(f"{run}: its checkpoints are not known to this version of the trainer")
    sha256 = record["module_sha256"]
    name = user_sources.of_run(run, "model", model["module"], record["module"], sha256)
    own = user_module.load(OPTION, name)
    changed = f"{record['module']} or a file that it imports has changed since the run was trained"
    if sha256 not in user_sources.digests(user_sources.sources(own)):
        warn(f"{changed}, and is used all the same: the run has no copy of it as it was")
    elif name != record["module"] and Path(record["module"]).is_file():
        warn(f"{changed}: the copy that the run keeps is used, {name}")
    options = user_module.options("model.options", own, "Options", model["options"])
    example = {
        field: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for field, (dtype, shape) in record["example"].items()
    }
    return module.make(own, options, example)


def objective_of(record: Mapping[str, Any]) -> tuple[mlp.Objective, tuple[int, ...]]:
    """Return what the MLP in a checkpoint was trained for, and the shape of its images."""
    known = record["objective"]
    values = {name: value for name, value in known.items() if name in mlp.Objective._fields}
    # In float32, whatever precision it was trained with: this may be another platform.
    return mlp.Objective(**{**values, "precision": "float32"}), tuple(known["image_shape"])
