"""Tables in files, CSV or Parquet -> columns: numbers or texts, of which none is missing."""

import csv
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.job import resources
from trainer.job.errors import DataError, UnavailableError, first_line

Column = npt.NDArray[Any]  # (N,): int64, float64, or str objects

ENDINGS = (".csv", ".parquet")


def read(
    path: Path, used: Collection[str] | None = None, texts: Collection[str] = ()
) -> dict[str, Column]:
    """Return the columns of a table by name, in their order.

    Args:
        path: the file.
        used: the columns that are checked; the contents of others mean nothing. None: all.
        texts: the columns of a CSV file that stay texts even if all are numbers.

    Raises:
        DataError: the file cannot be read, or a value is missing; names the row and the column.
        UnavailableError: pyarrow, which Parquet needs, is not installed.
    """
    try:
        columns = _parquet(path, used) if _is(path, ".parquet") else _csv(path, used, texts)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror or first_line(error)})"
        raise DataError(message, "correct the path or its permissions") from error
    if not all(len(column) for column in columns.values()) or not columns:
        raise DataError(f"{path}: has no rows", "give a line of names, and one for each example")
    return columns


def place(path: Path, row: int) -> str:
    """Return how to call a row, counted from 0; blank lines are none."""
    return f"{path}: row {row + 1:,}" + " below the names" * _is(path, ".csv")


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is(path: Path, ending: str) -> bool:
    return path.suffix.lower() == ending


def _csv(path: Path, used: Collection[str] | None, texts: Collection[str]) -> dict[str, Column]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"{path}: cannot be read ({first_line(error)})"
        raise DataError(message, "write it as CSV with commas, in UTF-8") from error
    names = [name.strip() for name in names]
    if len({*names}) < len(names) or "" in names or (names and all(map(is_number, names))):
        message = f"{path}: its first line has the names {', '.join(names)}"
        raise DataError(message, "give each column a name of its own in the first line")
    rows = [row for row in rows if row]  # blank lines
    for number, row in enumerate(rows):
        if len(row) != len(names):
            message = f"{place(path, number)} has {len(row)} values for {len(names)} columns"
            raise DataError(message, "quote values with commas, and give each row all columns")
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {
        name: np.array(column, object)
        if used is not None and name not in used
        else _typed(column, name, path, name in texts)
        for name, column in zip(names, columns, strict=True)
    }


def _typed(column: Iterable[str], name: str, path: Path, is_text: bool) -> Column:
    """Return texts as whole numbers or as numbers, if all of them are."""
    texts = np.array([text.strip() for text in column], object)
    _refuse_missing(texts == "", name, path)
    for dtype in () if is_text else (np.int64, np.float64):
        try:
            numbers = texts.astype(dtype)
        except (ValueError, OverflowError):
            continue
        _refuse_missing(~np.isfinite(numbers), name, path)
        return numbers
    return texts


def _parquet(path: Path, used: Collection[str] | None) -> dict[str, Column]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        message = f"{path}: Parquet needs the package pyarrow"
        raise UnavailableError(message, resources.how_to_install("parquet")) from error
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        message = f"{path}: cannot be read ({first_line(error)})"
        raise DataError(message, "is it a Parquet file, and whole?") from error
    columns: dict[str, Column] = {}
    if not table.num_rows:
        return columns
    for name, column in zip(table.column_names, table.columns, strict=True):
        if used is not None and name not in used:
            columns[str(name)] = np.empty(len(column), object)
            continue
        _refuse_missing(np.asarray(column.is_null()), name, path)
        values = column.to_numpy()
        kind = values.dtype.kind
        if kind in "biu":
            values = values.astype(np.int64)
        elif kind == "f":
            values = values.astype(np.float64)
            _refuse_missing(~np.isfinite(values), name, path)
        elif kind != "O" or not all(isinstance(value, str) for value in values):
            message = f"{path}: column {name} is {column.type}"
            raise DataError(message, "use numbers and texts, or leave the column out of the file")
        columns[str(name)] = values
    return columns


def _refuse_missing(missing: npt.NDArray[np.bool_], name: str, path: Path) -> None:
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        message = f"{place(path, row)} has no number or text in column {name}"
        raise DataError(message, "fill it in, or leave the row out")
