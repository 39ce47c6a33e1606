"""Load a trained model from a run directory, which another job may be writing to."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from trainer.checkpoint import files
from trainer.checkpoint.checksums import Record
from trainer.checkpoint.store import Best
from trainer.data.dataset import Columns, Examples, size
from trainer.data.rows import View
from trainer.job.directory import ASIDE, CHECKPOINTS
from trainer.job.errors import DataError, TrainerError, first_line
from trainer.job.files import Damaged
from trainer.job.stdout import listed
from trainer.tasks.make import from_record
from trainer.tasks.task import Task, Weights, outputs_of_one
from trainer.tracking.summary import default_best

Arrays = dict[str, npt.NDArray[Any]]
WEIGHTS, AVERAGE = "weights", "ema"  # of a TrainState
BEST = "best"  # instead of a step
T = TypeVar("T")


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

    @property
    def is_average(self) -> bool:
        """Whether the weights are the average over the steps, ema.decay."""
        return _evaluated(self.record) == AVERAGE

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.weights)
        parameters = sum(leaf.size for leaf in leaves)
        return f"<the model of {self.run}, step {self.step:,}, {parameters:,} parameters>"

    @property
    def outputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the outputs for ONE example, by path."""
        example = {name: self.task.example[name] for name in self.task.inputs}
        return jax.eval_shape(partial(outputs_of_one, self.task), self.weights, example)

    @property
    def classes(self) -> int | None:
        """How many classes the model tells apart; None if it has no output `probabilities`."""
        outputs = self.outputs
        shape = (*outputs["probabilities"].shape,) if "probabilities" in outputs else ()
        return int(shape[0]) if len(shape) == 1 and shape[0] > 1 else None

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; their numbers, if the data set had no names."""
        return self.record.get("class_names") or [str(i) for i in range(self.classes or 0)]

    @property
    def columns(self) -> Columns | None:
        """The columns of the table that it was trained on; None: no table, or an older run."""
        return Columns(**self.record["columns"]) if "columns" in self.record else None

    def predict(self, examples: Any) -> Arrays:
        """Return the outputs of the model for examples, by path: arrays (N, ...).

        The examples are a dict of arrays (N, ...), of the fields that the model reads; if it reads
        one, that array may be given alone.

        Raises:
            DataError: a field is missing, has another shape or dtype, or a code that no value has.
        """
        if not isinstance(examples, Mapping) and len(self.task.inputs) == 1:
            examples = {self.task.inputs[0]: examples}
        run, examples = program(self), checked(self, examples)
        results = [run(part) for part in parts(self, examples)]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def load(run: Path, step: int | str | None, warn: Callable[[str], None]) -> Trained:
    """Load the newest intact checkpoint of a run, or that of a step; nothing is written or renamed.

    The step BEST stands for the best of those that are kept, see checkpoint.best.
    `warn` gets a message for every damaged checkpoint that is skipped, and if the user's module has
    changed since.

    Raises:
        ConfigError: the user's module is missing or wrong.
        DataError: there is no such checkpoint, it is damaged, all are, or its weights are not
            finite.
        ReadError: the storage fails.
    """

    def trained(number: int, weights: Arrays, record: Record) -> Trained:
        task, dtype = from_record(record, run, warn), None
        if _evaluated(record) == AVERAGE:
            dtype = np.float32
        saved = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), task.shapes)
        fitting = files.fit(weights, saved)
        fitting = jax.tree.map(lambda array, x: array.astype(x.dtype), fitting, task.shapes)
        return Trained(run.absolute(), number, fitting, task, record)

    return _newest(run, step, warn, trained)


def arrays_of(
    run: Path, step: int | None, warn: Callable[[str], None], option: str
) -> tuple[int, Arrays]:
    """Return the step and the weights, by their paths, of what `load` loads; needs no module.

    `option` is what names the step, as far as its value.
    """
    return _newest(run, step, warn, lambda number, weights, _: (number, weights), option)


def _newest(
    run: Path,
    step: int | str | None,
    warn: Callable[[str], None],
    use: Callable[[int, Arrays, Record], T],
    option: str = "--step ",
) -> T:
    """Return what `use` makes of a step, its weights by their paths, and its record; see `load`."""
    damaged = False
    run = run.absolute()
    with files.checkpointer() as reader:
        for number in reversed(_steps(run, step, option)):
            folder = run / CHECKPOINTS / str(number)
            try:
                arrays, record = files.read(reader, folder)
                weights = {
                    name.partition("/")[2]: array
                    for name, array in arrays.items()
                    if name.partition("/")[0] == _evaluated(record)
                }
                if not all(np.isfinite(array).all() for array in weights.values()):
                    raise DataError(
                        f"checkpoint {number} of {run} holds weights that are NaN or infinite",
                        f"name an earlier one with {option}N, or train again with a lower optim.lr",
                    )
                return use(number, weights, record)
            except Exception as error:
                if isinstance(error, TrainerError):
                    raise
                if not folder.exists():
                    continue  # the job has deleted it in the meantime, as it should
                damaged = True
                reason = first_line(error, kind=not isinstance(error, Damaged))
                message = f"checkpoint {number} of {run} is damaged ({reason})"
                if isinstance(step, int):
                    hint = f"leave {option[:-1]} out to use the newest intact one"
                    raise DataError(message, hint) from None
                warn(f"{message}: trying {'the next best' if step else 'an older one'}")
    if damaged:
        raise DataError(f"{run}: none of its checkpoints is intact; see `python -m trainer verify`")
    # The job has deleted them all, so there are newer ones.
    return _newest(run, step, warn, use, option)


def _evaluated(record: Record) -> str:
    """Return what in the state is the model: the weights, or their average if it is evaluated."""
    ema = record["config"].get("ema", {})
    return WEIGHTS if ema.get("decay") is None or not ema["evaluate"] else AVERAGE


def _steps(run: Path, step: int | str | None, option: str) -> list[int]:
    """Return the steps of the checkpoints to try, the first one last."""
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
    if step == BEST:
        if not (ranked := by_value(run, steps)):
            message = f"{option}{BEST}: {run} has no checkpoint with results on a validation split"
            raise DataError(message, "name a step, or leave it out to use the newest")
        return ranked
    if step not in steps:
        raise DataError(
            f"{option}{step}: {run} has no checkpoint of that step: use one of "
            f"{', '.join(map(str, steps))} (older ones are deleted: checkpoint.keep_last)"
        )
    return [int(step)]


def by_value(run: Path, steps: Iterable[int]) -> list[int]:
    """Return the steps that have results on the validation split, the best one last."""
    values = dict[int, float]()
    for step in steps:
        with suppress(Damaged):
            record = files.opened(run / CHECKPOINTS / str(step)).record
            default = default_best([name.removeprefix("validation_") for name in record])
            asked = record["config"].get("checkpoint", {}).get("best")
            if (value := Best.of(asked or default).value(record)) is not None:
                values[step] = value
    return sorted(values, key=lambda step: (-values[step], step))


def program(trained: Trained) -> Callable[[Examples], Arrays]:
    """Return the model, compiled: checked examples -> outputs by path, numpy."""

    def run(weights: Weights, examples: Any) -> Any:
        return jax.vmap(partial(outputs_of_one, trained.task, weights))(examples)

    compiled, weights = jax.jit(run), jax.device_put(trained.weights)
    return lambda examples: jax.device_get(compiled(weights, jax.device_put(examples)))


def parts(trained: Trained, examples: Examples) -> Iterator[Examples]:
    """Yield as many examples at once as the run evaluated, whose activations fit into memory."""
    rows = trained.record["config"]["train"]["eval_batch_size"]
    for first in range(0, size(examples), rows):
        yield {name: array[first : first + rows] for name, array in examples.items()}


def checked(
    trained: Trained, examples: Mapping[str, Any], fields: Iterable[str] | None = None
) -> Examples:
    """Return fields of examples, by default those that the model reads, in its dtypes.

    A flat image (N, pixels) gets its shape back.

    Raises:
        DataError: a field is missing, has another shape or dtype, or a code that no value has.
    """
    fields = tuple(trained.task.inputs if fields is None else fields)
    result: Examples = {}
    for name in fields:
        spec = trained.task.example[name]
        if name not in examples:
            raise DataError(f"the model reads {', '.join(fields)}: {name} is missing")
        given, form = examples[name], (spec.shape, spec.dtype)
        if not isinstance(given, View) or (given.shape[1:], given.dtype) != form:
            given = np.asarray(given)
        if given.shape[1:] == (np.prod(spec.shape),) != spec.shape:
            given = given.reshape(len(given), *spec.shape)
        array = _cast(given, spec.dtype)
        if given.ndim == 0 or given.shape[1:] != spec.shape or array is None:
            hint = ": for one example give x[None]" if given.shape == spec.shape else ""
            text, right = (
                f"{dtype} {' x '.join(map(str, ('N', *shape)))}"
                for dtype, shape in ((given.dtype, given.shape[1:]), (spec.dtype, spec.shape))
            )
            raise DataError(f"{name} is {text}, but the model was trained on {right}{hint}")
        result[name] = array
    counts = {name: len(array) for name, array in result.items()}
    if len({*counts.values()}) > 1 or not all(counts.values()):
        raise DataError(f"the fields do not hold one number of examples: {counts}")
    for name, values in trained.columns.categories.items() if trained.columns else ():
        codes = result[name][:] if name in result else np.zeros(0)
        if len(wrong := codes[(codes < 0) | (codes >= len(values))]):
            hint = f"use 0 to {len(values) - 1} for {listed(values)}"
            raise DataError(f"{name} has the code {wrong[0]}, which no value has", hint)
    return result


def _cast(array: npt.NDArray[Any], dtype: Any) -> npt.NDArray[Any] | None:
    """Return an array in a dtype that can hold its values, but for rounding; None if it cannot."""
    if array.dtype == dtype:
        return array
    integers = array.dtype.kind in "iu" and dtype.kind in "iu"
    if not (integers or np.can_cast(array.dtype, dtype, "same_kind")):
        return None
    cast = array.astype(dtype)
    return cast if not integers or np.array_equal(cast, array) else None
