"""Tables in files, CSV or Parquet -> columns, and columns of several files -> numbers or texts."""

import csv
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.formats.arrow import pyarrow
from trainer.job.errors import DataError, first_line, reading

Column = npt.NDArray[Any]  # (N,): int64, float64, or str objects
Untyped = Column | tuple[str, ...]  # a tuple: from CSV, where numbers are texts too

ENDINGS = (".csv", ".parquet")
EXACT = 2**53  # below it, a float64 holds every whole number


def read(path: Path) -> dict[str, Untyped]:
    """Return the columns of a table by name, in their order: tuples of a CSV file, or arrays.

    Raises:
        DataError: the file cannot be read, or has no rows.
        UnavailableError: pyarrow, which Parquet needs, is not installed.
    """
    with reading(path):
        columns = _csv(path) if _is_csv(path) else _parquet(path)
    if not columns or not len(next(iter(columns.values()))):
        raise DataError(f"{path}: has no rows", "give a line of names, and one for each example")
    return columns


def typed(name: str, columns: Mapping[Path, Untyped]) -> dict[Path, Column]:
    """Return a column of several files, all with one dtype.

    It is str objects if a value of any file is a text, or else int64 if all values are whole
    numbers, or else float64.

    Raises:
        DataError: a value is missing, or neither a number nor a text; names the file.
    """
    read = {path: _numbers(column) for path, column in columns.items()}
    for path, column in read.items():
        is_text = column.dtype == object
        kinds = {type(value) for value in column} if is_text else {column.dtype.kind}
        if not kinds <= {str, type(None), *"biuf"}:
            message = f"{path}: column {name} has neither numbers nor texts, but {column.dtype}"
            raise DataError(message, "convert it, or leave the column out of the file")
        missing = np.array([v is None for v in column]) if is_text else ~np.isfinite(column)
        if missing.any():
            where = place(path, int(np.argmax(missing)))
            message = f"{where} has no number or text in column {name}"
            more = f" ({missing.sum():,} such rows)" if missing.sum() > 1 else ""
            raise DataError(f"{message}{more}", "fill it in, or leave the row out")
    if any(column.dtype == object for column in read.values()):
        # As they were written: in another file of the column, all texts may be numbers.
        return {path: _texts(columns[path]) for path in read}
    dtype = np.int64 if all(map(_is_whole, read.values())) else np.float64
    return {path: column.astype(dtype) for path, column in read.items()}


def place(path: Path, row: int) -> str:
    """Return what messages call a row, counted from 0; blank lines do not count."""
    return f"{path}: row {row + 1:,}" + " below the names" * _is_csv(path)


def is_number(text: str) -> bool:
    """Return whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _csv(path: Path) -> dict[str, Untyped]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            names, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        message = f"{path}: cannot be read ({first_line(error)})"
        raise DataError(message, "write it as CSV with commas, in UTF-8") from error
    names = [name.strip() for name in names]
    if len(names) == 1 and (other := next((c for c in ";\t" if c in names[0]), None)):
        separator = "semicolons" if other == ";" else "tabs"
        raise DataError(f"{path}: its columns are separated by {separator}", "use commas")
    if len({*names}) < len(names) or "" in names or (names and all(map(is_number, names))):
        message = f"{path}: its first line has the names {', '.join(names)}"
        raise DataError(message, "give each column a name of its own in the first line")
    rows = [row for row in rows if row]  # without blank lines
    for number, row in enumerate(rows):
        if len(row) != len(names):
            message = f"{place(path, number)} has {len(row)} values for {len(names)} columns"
            raise DataError(message, "quote values with commas, and give each row all columns")
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _parquet(path: Path) -> dict[str, Untyped]:
    arrow = pyarrow()
    try:
        table = arrow.parquet.read_table(path)
    except arrow.ArrowException as error:
        message = f"{path}: cannot be read ({first_line(error)})"
        raise DataError(message, "is it a Parquet file, and whole?") from error
    return {
        name: column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _texts(column: Untyped) -> Column:
    """Return values as texts; None where a text is empty."""
    if isinstance(column, tuple):
        return np.array([text.strip() or None for text in column], object)
    return column if column.dtype == object else column.astype(str).astype(object)


def _numbers(column: Untyped) -> Column:
    """Return texts of a CSV file as whole numbers or as numbers, if all of them are."""
    if not isinstance(column, tuple):
        return column
    texts = _texts(column)
    for dtype in (np.int64, np.float64):
        with suppress(ValueError, TypeError, OverflowError):
            return texts.astype(dtype)
    return texts


def _is_whole(column: Column) -> bool:
    floats = column.dtype.kind == "f"
    return not floats or bool(((column % 1 == 0) & (abs(column) < EXACT)).all())
