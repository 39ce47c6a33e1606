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

from trainer.data.dataset import fields
from trainer.job.errors import DataError, first_line, reading

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


def read(path: Path) -> tuple[int, Iterator[Example]]:
    """Return the number of examples in a file, and an iterator over them in their order.

    Raises:
        DataError: it is no ArrayRecord file, or has no record. In the iterator: a record is
            damaged, is not safetensors, or has other fields, shapes or dtypes than the first.
    """
    reader = _open(path)
    count = int(reader.num_records())
    return count, _examples(path, reader, count)


def _examples(path: Path, reader: Any, count: int) -> Iterator[Example]:
    first, number = "", 0
    try:
        for start in range(0, count, AT_ONCE):
            for number, record in enumerate(reader.read(start, min(start + AT_ONCE, count)), start):
                example = load(record)
                form = fields({name: value[np.newaxis] for name, value in example.items()})
                first = first or form
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
        with reading(path), path.open("rb"):  # the reader says nothing of what it cannot open
            reader = ArrayRecordReader(str(path))
        if reader.ok() and reader.num_records():
            return reader
        reader.close()  # raises what is wrong
    except RuntimeError as error:
        raise DataError(f"{path}: is damaged ({first_line(error)})", AGAIN) from None
    raise DataError(f"{path}: has no record", AGAIN)
