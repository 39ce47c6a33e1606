"""A trained model, read back from a run directory that another job may be writing to."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from trainer.checkpoint import files
from trainer.checkpoint.checksums import Damaged, Record
from trainer.functional import linear
from trainer.job import directory as committed
from trainer.job.errors import DataError
from trainer.models import mlp
from trainer.tasks.classification import Objective, batch_logits

ROWS_AT_ONCE = 10_000  # to bound the memory of the activations


class Trained(NamedTuple):
    """A checkpoint that was found intact, as far as it concerns the model."""

    run: Path
    step: int
    weights: mlp.Weights  # numpy, float32
    objective: Objective
    image_shape: tuple[int, ...]  # (rows, cols)
    record: Record  # what the run kept beside the arrays


class Outputs(NamedTuple):
    """What a model makes of N images; float32 (N, classes) both."""

    logits: Any
    probabilities: Any


def load(run: Path, number: int | None, warn: Callable[[str], None]) -> Trained:
    """Read the newest intact checkpoint of a run; nothing is written or renamed.

    Args:
        run: the run directory.
        number: the step of the checkpoint to read instead; None: the newest.
        warn: told of every damaged checkpoint that is passed over.

    Raises:
        DataError: there is no such checkpoint, or it is damaged, or all are, or its weights are
            not finite.
        ReadError: the storage does not give it.
    """
    directory = run / committed.CHECKPOINTS
    steps = files.steps(directory)
    if not steps:
        if aside := sorted(path.name for path in directory.glob(f"{committed.ASIDE}*")):
            raise DataError(
                f"{run}: all its checkpoints were damaged, and are renamed to {', '.join(aside)}: "
                "put an intact copy back"
            )
        raise DataError(f"{run} has no checkpoint yet: a run saves the first after an epoch")
    if number is not None and number not in steps:
        raise DataError(
            f"--step {number}: {run} has no checkpoint of that step: use one of "
            f"{', '.join(map(str, steps))} (older ones are deleted: checkpoint.keep_last)"
        )
    damage = []
    with files.checkpointer() as reader:
        for one in reversed(steps if number is None else [number]):
            folder = directory / str(one)
            try:
                state, record = files.read(reader, folder)
                found = Trained(run, one, *_model_of(state, record), record)
            except Damaged as error:
                if not folder.exists():
                    continue  # its job has deleted it meanwhile, as it should be
                damage.append(f"checkpoint {one} of {run} is damaged")
                reason = str(error)
                if number is None:
                    warn(f"{damage[-1]} ({reason}): an older one is looked for")
                continue
            if not all(np.isfinite(array).all() for layer in found.weights for array in layer):
                raise DataError(
                    f"checkpoint {one} of {run} holds weights that are NaN or infinite: name an "
                    "earlier one with --step N, or train again with a lower optim.lr"
                )
            return found
    if number is not None and damage:
        raise DataError(f"{damage[0]} ({reason}): leave --step out to use the newest intact one")
    if damage:
        raise DataError(f"{run}: none of its checkpoints is intact; see `python -m trainer verify`")
    return load(run, number, warn)  # those deleted have made room for newer ones


def outputs(weights: Any, images: jax.Array, objective: Objective) -> Outputs:
    """Return what the model makes of images, uint8 (N, rows, cols) or (N, pixels); traceable."""
    flat = images.reshape(images.shape[0], -1)
    logits = batch_logits(weights, flat, objective)
    return Outputs(logits, jax.nn.softmax(logits))


def run_on(trained: Trained, images: npt.NDArray[np.uint8]) -> Outputs:
    """Return what a trained model makes of images, uint8 (N, rows, cols) or (N, pixels), as numpy.

    Raises:
        DataError: the images have another shape than those it was trained on.
    """
    check_shape(trained, images.shape[1:])
    program = jax.jit(partial(outputs, objective=trained.objective))
    weights = jax.device_put(trained.weights)
    parts = [
        jax.device_get(program(weights, jax.device_put(images[lo : lo + ROWS_AT_ONCE])))
        for lo in range(0, len(images), ROWS_AT_ONCE)
    ]
    return Outputs._make(np.concatenate(part) for part in zip(*parts, strict=True))


def check_shape(trained: Trained, shape: tuple[int, ...]) -> None:
    """Check the shape of one image: (rows, cols) or (pixels,).

    Raises:
        DataError: the model was trained on images of another.
    """
    expected = trained.image_shape
    if len(shape) != len(expected):  # one of them does not tell rows from columns
        shape, expected = (math.prod(shape),), (math.prod(expected),)
    if shape != expected:
        found, right = (" x ".join(map(str, one)) for one in (shape, expected))
        raise DataError(f"images of {found} pixels, but the model was trained on {right}")


def _model_of(state: Any, record: Record) -> tuple[mlp.Weights, Objective, tuple[int, ...]]:
    """Return the weights, the objective and the shape of an image in a checkpoint.

    Raises:
        Damaged: it holds something else than this version of the trainer saves.
    """
    try:
        weights = [linear.Weights(layer["kernel"], layer["bias"]) for layer in state["weights"]]
        found = dict(record["objective"])
        shape = tuple(found.pop("image_shape"))
        # Whatever it was trained with: this may be another platform.
        return weights, Objective(**found)._replace(precision="float32"), shape
    except (KeyError, TypeError, AttributeError):
        raise Damaged("it is not a model that this version of the trainer knows") from None
