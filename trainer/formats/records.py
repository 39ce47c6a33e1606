"""ArrayRecord files, each of whose records is one example: its fields in safetensors format.

Records are found by their numbers, and each has a checksum. Nothing is ever unpickled.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from safetensors import SafetensorError
from safetensors.numpy import load, save

from trainer.job.errors import DataError, first_line

Example = Mapping[str, npt.NDArray[Any]]

ENDINGS = (".array_record", ".arrayrecord")
AGAIN = "copy the file again, or write it with trainer.formats.records.write"
AT_ONCE = 256  # records that are read together


def write(path: str | Path, examples: Iterable[Mapping[str, npt.ArrayLike]]) -> None:
    """Write examples to a file, each a dict: field -> array or number."""
    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for example in examples:
            writer.write(
                save({name: np.array(value, order="C") for name, value in example.items()})
            )
    finally:
        writer.close()


def count(path: Path) -> int:
    """Return the number of records in a file.

    Raises:
        DataError: it is no ArrayRecord file, or has no record.
    """
    reader = _open(path)
    try:
        return int(reader.num_records())
    finally:
        reader.close()


def read(path: Path) -> Iterator[Example]:
    """Yield the examples of a file in their order.

    Raises:
        DataError: a record is damaged, is not safetensors, or has other fields, shapes or dtypes
            than the first.
    """
    first: str | None = None
    reader = _open(path)
    try:
        examples = int(reader.num_records())
        for start in range(0, examples, AT_ONCE):
            for number, record in enumerate(
                reader.read(start, min(start + AT_ONCE, examples)), start
            ):
                example = load(record)
                form = _form(example)
                first = form if first is None else first
                if form != first or not form:
                    message = f"{path}: record {number:,} has {form or 'no field'}"
                    message += f", the first {first}" if number else ""
                    raise DataError(message, "give all the same fields, shapes and dtypes")
                yield example
    except RuntimeError as error:
        raise DataError(f"{path}: a record is damaged ({first_line(error)})", AGAIN) from None
    except SafetensorError as error:
        message = f"{path}: record {number:,} is not in safetensors format ({first_line(error)})"
        raise DataError(message, "write it with trainer.formats.records.write") from None
    finally:
        reader.close()


def _open(path: Path) -> Any:
    try:
        with path.open("rb"):  # the reader says nothing of what it cannot open
            reader = ArrayRecordReader(str(path))
        if reader.ok() and reader.num_records():
            return reader
        reader.close()  # raises what is wrong
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise DataError(message, "correct the path or its permissions") from error
    except RuntimeError as error:
        raise DataError(f"{path}: is damaged ({first_line(error)})", AGAIN) from None
    raise DataError(f"{path}: has no record", AGAIN)


def _form(example: Example) -> str:
    fields = sorted(example.items())
    return ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in fields)
