"""Load a trained model from a run directory, which another job may be writing to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from trainer.checkpoint import files
from trainer.checkpoint.checksums import Damaged, Record
from trainer.data.dataset import Examples, bytes_of_one, size
from trainer.job.directory import ASIDE, CHECKPOINTS
from trainer.job.errors import DataError
from trainer.tasks.make import from_record
from trainer.tasks.task import Task, Weights, apply, named_leaves

BYTES = 64 << 20  # of examples at once, which bounds the memory of the activations

Arrays = dict[str, npt.NDArray[Any]]


class Trained(NamedTuple):
    """The model in an intact checkpoint."""

    run: Path
    step: int
    weights: Weights  # numpy
    task: Task
    record: Record  # what the run keeps with the arrays

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Name, numbers of examples and SHA-256 of the data set that it was trained on."""
        about: Mapping[str, Any] = self.record["meaning"]["data set"]
        return about

    def predict(self, examples: Any) -> Arrays:
        """Return what the model gives for examples, by name: arrays (N, ...).

        The examples are a dict of arrays (N, ...), of the fields that the model reads; if it reads
        one, that array may be given alone.

        Raises:
            DataError: a field is missing, or has another shape or dtype.
        """
        if not isinstance(examples, Mapping) and len(self.task.inputs) == 1:
            examples = {self.task.inputs[0]: examples}
        return predict(self, examples)


def load(run: Path, step: int | None, warn: Callable[[str], None]) -> Trained:
    """Load the newest intact checkpoint of a run, or that of a step; nothing is written or renamed.

    `warn` gets a message for every damaged checkpoint that is skipped, and if the user's module has
    changed since.

    Raises:
        ConfigError: the user's module is missing or wrong.
        DataError: there is no such checkpoint, it is damaged, all are, or its weights are not
            finite.
        ReadError: the storage fails.
    """
    damaged = False
    run = run.absolute()
    with files.checkpointer() as reader:
        for number in reversed(_steps(run, step)):
            folder = run / CHECKPOINTS / str(number)
            try:
                arrays, record = files.read(reader, folder)
                task = from_record(record, run, warn)
                template = jax.eval_shape(task.init, jax.ShapeDtypeStruct((2,), "uint32"))
                weights = files.fit(arrays, template, "weights/")
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
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(weights)):
                raise DataError(
                    f"checkpoint {number} of {run} holds weights that are NaN or infinite",
                    "name an earlier one with --step N, or train again with a lower optim.lr",
                )
            return Trained(run, number, weights, task, record)
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


def predict(trained: Trained, examples: Examples) -> Arrays:
    """Return what the model gives for examples, by name: arrays (N, ...).

    Only the fields that the model reads are needed.

    Raises:
        DataError: a field is missing, or has another shape or dtype.
    """
    examples = check_inputs(trained, examples)

    def outputs(weights: Weights, examples: Any) -> Any:
        return jax.vmap(trained.task.outputs)(apply(trained.task, weights, examples))

    program = jax.jit(outputs)
    weights, count = jax.device_put(trained.weights), size(examples)
    rows = max(1, BYTES // max(1, bytes_of_one(examples)))
    parts = []
    for first in range(0, count, rows):
        part = {name: array[first : first + rows] for name, array in examples.items()}
        parts.append(named_leaves(jax.device_get(program(weights, jax.device_put(part)))))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def check_inputs(trained: Trained, examples: Mapping[str, Any]) -> Examples:
    """Return the fields that the model reads; a flat image (N, pixels) gets its shape back.

    Raises:
        DataError: a field is missing, or has another shape or dtype.
    """
    checked: Examples = {}
    for name in trained.task.inputs:
        spec = trained.task.example[name]
        if name not in examples:
            raise DataError(f"the model reads {', '.join(trained.task.inputs)}: {name} is missing")
        array = np.asarray(examples[name])
        if array.shape[1:] == (int(np.prod(spec.shape)),):
            array = array.reshape(len(array), *spec.shape)
        if array.shape[1:] != spec.shape or array.dtype != spec.dtype:
            given, right = (
                f"{dtype} {' x '.join(map(str, shape)) or 'numbers'}"
                for dtype, shape in ((array.dtype, array.shape[1:]), (spec.dtype, spec.shape))
            )
            raise DataError(f"{name}: {given}, but the model was trained on {right}")
        checked[name] = array
    return checked
