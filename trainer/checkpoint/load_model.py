"""Load a trained model from a run directory, which another job may be writing to."""

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
from trainer.job.directory import ASIDE, CHECKPOINTS
from trainer.job.errors import DataError
from trainer.models import mlp
from trainer.tasks.classification import Objective, batch_logits

BATCH = 10_000  # images at once, which bounds the memory of the activations


class Trained(NamedTuple):
    """The model in an intact checkpoint."""

    run: Path
    step: int
    weights: mlp.Weights  # numpy, float32
    objective: Objective
    image_shape: tuple[int, ...]  # (rows, cols)
    record: Record  # what the run keeps with the arrays


class Outputs(NamedTuple):
    """The outputs of a model for N images; float32 (N, classes) both."""

    logits: Any
    probabilities: Any


def load(run: Path, step: int | None, warn: Callable[[str], None]) -> Trained:
    """Load the newest intact checkpoint of a run, or that of a step; nothing is written or renamed.

    `warn` gets a message for every damaged checkpoint that is skipped.

    Raises:
        DataError: there is no such checkpoint, it is damaged, all are, or its weights are not
            finite.
        ReadError: the storage fails.
    """
    damaged = False
    with files.checkpointer() as reader:
        for number in reversed(_steps(run, step)):
            folder = run / CHECKPOINTS / str(number)
            try:
                state, record = files.read(reader, folder)
                trained = Trained(run, number, *_model_of(state, record), record)
            except Damaged as error:
                if not folder.exists():
                    continue  # the job has deleted it in the meantime, as it should
                damaged = True
                message = f"checkpoint {number} of {run} is damaged ({error})"
                if step is not None:
                    hint = "leave --step out to use the newest intact one"
                    raise DataError(message, hint) from None
                warn(f"{message}: trying an older one")
                continue
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.weights)):
                raise DataError(
                    f"checkpoint {number} of {run} holds weights that are NaN or infinite",
                    "name an earlier one with --step N, or train again with a lower optim.lr",
                )
            return trained
    if damaged:
        raise DataError(f"{run}: none of its checkpoints is intact; see `python -m trainer verify`")
    return load(run, step, warn)  # the job has deleted them all, so there are newer ones


def _steps(run: Path, step: int | None) -> list[int]:
    """Return the steps of the checkpoints to try, oldest first."""
    steps = files.steps(run / CHECKPOINTS)
    if not steps:
        if aside := sorted(path.name for path in (run / CHECKPOINTS).glob(f"{ASIDE}*")):
            raise DataError(
                f"{run}: all its checkpoints were damaged, and are renamed to {', '.join(aside)}",
                "put an intact copy back",
            )
        raise DataError(f"{run} has no checkpoint yet: a run saves the first after an epoch")
    if step is None:
        return steps
    if step not in steps:
        raise DataError(
            f"--step {step}: {run} has no checkpoint of that step: use one of "
            f"{', '.join(map(str, steps))} (older ones are deleted: checkpoint.keep_last)"
        )
    return [step]


def outputs(weights: Any, images: jax.Array, objective: Objective) -> Outputs:
    """Return the outputs for images, uint8 (N, rows, cols) or (N, pixels); traceable."""
    logits = batch_logits(weights, images.reshape(images.shape[0], -1), objective)
    return Outputs(logits, jax.nn.softmax(logits))


def predict(trained: Trained, images: npt.NDArray[np.uint8]) -> Outputs:
    """Return the outputs for images, uint8 (N, rows, cols) or (N, pixels), as numpy arrays."""
    check_shape(trained, images.shape[1:])
    program = jax.jit(partial(outputs, objective=trained.objective))
    weights = jax.device_put(trained.weights)
    parts = [
        jax.device_get(program(weights, jax.device_put(images[first : first + BATCH])))
        for first in range(0, len(images), BATCH)
    ]
    return Outputs._make(np.concatenate(part) for part in zip(*parts, strict=True))


def check_shape(trained: Trained, shape: tuple[int, ...]) -> None:
    """Raise DataError unless the model was trained on images of this shape, which may be flat."""
    expected = trained.image_shape
    if len(shape) != len(expected):  # one of the two is flat: compare the number of pixels
        shape, expected = (math.prod(shape),), (math.prod(expected),)
    if shape != expected:
        given, right = (" x ".join(map(str, one)) for one in (shape, expected))
        raise DataError(f"images of {given} pixels, but the model was trained on {right}")


def _model_of(state: Any, record: Record) -> tuple[mlp.Weights, Objective, tuple[int, ...]]:
    """Return the weights, the objective and the shape of an image from a checkpoint."""
    try:
        weights = [linear.Weights(layer["kernel"], layer["bias"]) for layer in state["weights"]]
        objective = dict(record["objective"])
        shape = tuple(objective.pop("image_shape"))
        # In float32, whatever precision it was trained with: this may be another platform.
        return weights, Objective(**objective)._replace(precision="float32"), shape
    except (KeyError, TypeError, AttributeError):
        raise Damaged("it is not a model that this version of the trainer knows") from None
