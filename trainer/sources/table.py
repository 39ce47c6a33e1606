"""A table, CSV or Parquet -> `features` and `label`, and a field of codes for each category."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.schema import DataConfig
from trainer.data import digests
from trainer.data.dataset import Columns, Dataset, Examples, Splits
from trainer.data.report import Report
from trainer.data.split import with_test
from trainer.formats import tables
from trainer.formats.find import files_of
from trainer.formats.tables import Column
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError, reading
from trainer.job.stdout import listed


def load(data: DataConfig, _: Report) -> Dataset:
    """Return a table's rows as examples: `features`, float32 (N, F), `label`, and the categories.

    data.root is a folder of train.*, test.* and perhaps validation.*, or one file. Texts and whole
    numbers in data.categories and data.label become codes 0, 1, ..., int32 (N,), the categories in
    fields of their names. A label with fractions, or with data.regression, stays a number, float32
    (N,). The features are data.features, or all other columns.

    Raises:
        ConfigError: a column is named that the table does not have, or text has no rule.
        DataError: a file is missing or cannot be read, or a value is missing or new in a split.
    """
    path, label = expanded(str(data.root), "data.root"), str(data.label)
    files = files_of(path, tables.ENDINGS)
    given = {split: tables.read(file) for split, file in files.items()}
    train = given["train"]
    for split, table in given.items():
        if {*table} != {*train}:
            message = f"data.root={path}: train has the columns {', '.join(train)}, {split} "
            raise DataError(f"{message}{', '.join(table)}", "give all files the same")
    categories = data.categories or []
    features = _features([*train], label, data.features, categories)
    columns = {  # name -> file -> the values
        name: tables.typed(name, {files[split]: table[name] for split, table in given.items()})
        for name in (*features, *categories, label)
    }
    # O: texts, i: whole numbers, f: numbers.
    kinds = {name: column[files["train"]].dtype.kind for name, column in columns.items()}
    for name in features:
        if kinds[name] == "O":
            message = f"data.features: column {name} of {path} is text{_example(columns[name])}"
            hint = f"give it a rule, data.categories=[{name}], or choose: data.features=[...]"
            raise ConfigError(message, hint)
    for name in categories:
        if kinds[name] == "f":
            message = f"data.categories: column {name} of {path} has fractions"
            raise ConfigError(message, "categories are texts or whole numbers")
    if kinds[label] == "O" and data.regression:
        message = f"data.regression=true: column {label} of {path} is text"
        raise ConfigError(message, "leave it out: texts become classes")
    is_number = data.regression or kinds[label] == "f"
    values = {name: np.unique(columns[name][files["train"]]).tolist() for name in categories}
    known = Columns(features, values)
    classes = [] if is_number else np.unique(columns[label][files["train"]]).tolist()

    def examples(file: Path) -> Examples:
        fields = _encoded({name: column[file] for name, column in columns.items()}, known, file)
        make = _float32 if is_number else partial(_codes, classes)
        return {**fields, "label": make(columns[label][file], label, file)}

    splits: Splits = {split: examples(file) for split, file in files.items()}
    with reading(path):
        identity = "" if "test" in splits else digests.of_file(path)
    splits = with_test(splits, data.test_fraction, identity)
    return Dataset("table", **splits, class_names=tuple(map(str, classes)), columns=known)


def read(file: Path, known: Columns, fields: Collection[str]) -> Examples:
    """Return fields of a table by the columns of training, without a label; it may have others.

    Raises:
        DataError: the file cannot be read, lacks a column, has a text for a number, or a value that
            the training split does not have.
        UnavailableError: pyarrow, which Parquet needs, is not installed.
    """
    categories = {name: known.categories[name] for name in known.categories if name in fields}
    known = Columns(known.features if "features" in fields else (), categories)
    table, columns = tables.read(file), dict[str, Column]()
    for name in (*known.features, *known.categories):
        values = known.categories.get(name, [0])
        if name not in table:
            message = f"{file}: there is no column {name}, it has {listed([*table])}"
            raise DataError(message, "give it the columns that the model was trained on")
        # Together, so that codes written in digits stay texts where they were texts in training.
        of_training = np.array(values, object if isinstance(values[0], str) else np.int64)
        column = tables.typed(name, {file: table[name], Path(): of_training})[file]
        if column.dtype == object != of_training.dtype:
            message = f"column {name} of {file} is text{_example({file: column})}"
            numbers = f": {listed(values)}" if name in known.categories else ""
            raise DataError(message, f"the model was trained on numbers{numbers}")
        columns[name] = column
    return _encoded(columns, known, file)


def _encoded(columns: Mapping[str, Column], known: Columns, file: Path) -> Examples:
    """Return the fields of a table but for its label; its columns are typed."""
    numbers = [_float32(columns[name], name, file) for name in known.features]
    fields: Examples = {"features": np.stack(numbers, axis=1)} if numbers else {}
    for name, values in known.categories.items():
        fields[name] = _codes(values, columns[name], name, file)
    return fields


def _features(
    names: Sequence[str], label: str, features: Sequence[str] | None, categories: Sequence[str]
) -> list[str]:
    """Return the columns of numbers, after a check of all names."""
    has = f"the table has {', '.join(names)}"
    used: dict[str, str] = {}
    for option, given in (
        ("data.label", [label]),
        ("data.categories", categories),
        ("data.features", features or ()),
    ):
        for name in given:
            if name not in names:
                raise ConfigError(f"{option}={name}: there is no such column", has)
            if name in used:
                hint = "name a column once"
                raise ConfigError(f"{option}={name}: {used[name]} names it, too", hint)
            used[name] = option
    if clash := {"features", "label"} & {*categories}:
        message = f"data.categories={clash.pop()}: another field has that name"
        raise ConfigError(message, "rename the column")
    if features is None:
        features = [name for name in names if name not in used]
    if not features and not categories:
        raise ConfigError(f"data.label={label}: no other column is left to predict it from", has)
    return [*features]


def _example(columns: Mapping[Path, Column]) -> str:
    """Return the first value that is no number and its place, for a message."""
    for file, column in columns.items():
        for row, value in enumerate(column):
            if not tables.is_number(value):
                return f" ({tables.place(file, row)} has {value!r})"
    return ""


def _float32(column: Column, name: str, file: Path) -> Column:
    with np.errstate(over="ignore"):
        numbers = column.astype(np.float32)
    if not (finite := np.isfinite(numbers)).all():
        row = int(np.argmin(finite))
        where = tables.place(file, row)
        message = f"{where}: {column[row]} in column {name} is too large for float32"
        raise DataError(message, "scale the column, or leave the row out")
    return numbers


def _codes(values: Sequence[Any], column: Column, name: str, file: Path) -> Column:
    """Return the place of each value among those of the training split, in order, int32."""
    known = np.array(values, column.dtype)
    codes = np.searchsorted(known, column).clip(max=len(known) - 1)
    if len(new := np.flatnonzero(known[codes] != column)):
        where, value = tables.place(file, int(new[0])), column.item(new[0])
        message = f"{where}: {value!r} in column {name} is not in the training split, which has "
        hint = "put an example of it there, or leave the row out"
        raise DataError(f"{message}{listed(values)}", hint)
    return codes.astype(np.int32)
