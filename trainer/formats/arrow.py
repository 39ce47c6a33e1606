"""Columns of Arrow tables -> arrays; the folders that save_to_disk of the package datasets writes.

Such a folder holds state.json, which lists files of Arrow's stream format, and dataset_info.json,
with the features. A folder of several splits holds dataset_dict.json and a folder for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.job import resources
from trainer.job.errors import DataError, UnavailableError, first_line, reading
from trainer.job.files import Damaged, parse, read_bytes

if TYPE_CHECKING:
    from pyarrow import RecordBatch

SPLITS = {"splits": [str]}
STATE = {"_data_files": [{"filename": str}], "_indices_data_files?": ([Any], None)}
INFO = {"features?": ({"*": Any}, None)}
AGAIN = "write it again by save_to_disk"


class Saved(NamedTuple):
    """One split on disk."""

    files: list[Path]
    features: dict[str, Any]  # column -> JSON: its `_type`, and the `names` of a ClassLabel


def splits(folder: Path) -> dict[str, Saved]:
    """Return the splits in a folder; without dataset_dict.json it is the split `train`.

    Raises:
        DataError: it is not such a folder, or a file of it is missing or damaged; names it.
    """
    if not os.path.exists(folder / "dataset_dict.json"):  # noqa: PTH110 - Path raises if a parent is closed
        return {"train": _split(folder)}
    names = _json(folder / "dataset_dict.json", SPLITS)["splits"]
    return {name: _split(folder / name) for name in names}


def batches(files: Sequence[Path]) -> Iterator[RecordBatch]:
    """Yield the record batches of files, each mapped into memory; none is empty.

    Raises:
        DataError: a file is missing, or no whole file of Arrow's stream format.
        UnavailableError: pyarrow is not installed.
    """
    arrow = pyarrow()
    for file in files:
        try:
            with arrow.memory_map(str(file)) as opened, arrow.ipc.open_stream(opened) as stream:
                yield from (batch for batch in stream if batch.num_rows)
        except (OSError, arrow.ArrowException, EOFError) as error:
            raise DataError(f"{file}: cannot be read ({first_line(error)})", AGAIN) from None


def array(column: Any, name: str) -> npt.NDArray[Any]:
    """Return a column of numbers, or of lists of one length of them: (N, ...).

    Raises:
        DataError: it holds nulls, lists of several lengths, or anything but numbers; begins with
            `name`.
    """
    arrow, dims, count = pyarrow(), [], len(column)
    while True:
        if isinstance(column, arrow.ExtensionArray):
            column = column.storage
        kind = column.type
        if column.null_count:
            raise DataError(f"{name} holds {column.null_count:,} nulls", "replace them by numbers")
        if arrow.types.is_fixed_size_list(kind):
            dims.append(kind.list_size)
        elif arrow.types.is_list(kind) or arrow.types.is_large_list(kind):
            lengths = np.unique(column.value_lengths().to_numpy())
            if len(lengths) > 1:
                text = f"{name} holds lists of {lengths[0]} to {lengths[-1]} elements"
                raise DataError(text, "pad them to one length")
            dims.append(int(lengths[0]) if len(lengths) else 0)
        else:
            break
        column = column.flatten()
    types = arrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        hint = "name the columns to use with data.columns=[NAME,...]; texts become tokens or bytes"
        raise DataError(f"{name} holds {kind}, not numbers", hint)
    numbers: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers.reshape(count, *dims)


def _split(folder: Path) -> Saved:
    state = _json(folder / "state.json", STATE)
    if state.get("_indices_data_files"):
        message = f"{folder}: the rows to use are in a file of their own"
        raise DataError(message, "call flatten_indices() before save_to_disk")
    files = [folder / one["filename"] for one in state["_data_files"]]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(f"{missing[0]}: is listed in state.json, but is missing", AGAIN)
    return Saved(files, _json(folder / "dataset_info.json", INFO).get("features") or {})


def _json(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    hint = "name a folder that save_to_disk of the package datasets wrote: data.root=DIR"
    try:
        with reading(path, hint):
            content: dict[str, Any] = parse(read_bytes(path), shape, f"{path}:")
    except Damaged as damage:
        raise DataError(str(damage), AGAIN) from None
    return content


def pyarrow() -> Any:
    """Return the package pyarrow, which an extra installs; raises UnavailableError without it."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError:
        message = "pyarrow is not installed, which reads Arrow and Parquet files"
        raise UnavailableError(message, resources.how_to_install("parquet")) from None
    return pyarrow
