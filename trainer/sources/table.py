"""A table, CSV or Parquet -> `features` and `label`, and a field of codes for each category."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from trainer.data.dataset import Dataset, Examples
from trainer.data.split import counted, held_out
from trainer.formats import cache, tables
from trainer.formats.find import files_of
from trainer.formats.tables import Column
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, DataError

Table = dict[str, Column]
Place = Callable[[int], str]  # row -> how to call it

EXACT = 2**53  # below it, a float64 holds every whole number


def load(
    root: str,
    label: str,
    features: Sequence[str] | None,
    categories: Sequence[str],
    test_fraction: float,
    *,
    regression: bool,
) -> Dataset:
    """Return a table's rows as examples: `features`, float32 (N, F), `label`, and the categories.

    Args:
        root: a folder of train.*, test.* and perhaps validation.*; or one file.
        label: the column to predict: the number of its class, int32 (N,), or float32 (N,).
        features: the columns of numbers; None: all that are no label and no category.
        categories: columns whose texts or whole numbers become codes 0, 1, ..., int32 (N,), in
            fields of their names.
        test_fraction: of the rows of one file, drawn by a permutation that depends on the file.
        regression: whether the label is a number even if all are whole.

    Raises:
        ConfigError: a column is named that the table does not have, or text has no rule.
        DataError: a file is missing or cannot be read, or a value is missing or new in a split.
    """
    path = expanded(root, "data.root")
    files = files_of(path, "data.root", tables.ENDINGS)
    used = None if features is None else {label, *categories, *features}
    splits = {split: tables.read(file, used) for split, file in files.items()}
    texts = {name for of in splits.values() for name, column in of.items() if _is_text(column)}
    for split, of in splits.items():
        if any(name in of and not _is_text(of[name]) for name in texts):  # `1` among others is text
            splits[split] = tables.read(files[split], used, texts)
    rows: dict[str, Place] = {split: partial(tables.place, file) for split, file in files.items()}
    if "test" not in splits:
        splits, rows = _divided(splits["train"], path, test_fraction)
    train = splits["train"]
    for split, table in splits.items():
        if {*table} != {*train}:
            message = f"data.root={root}: train has the columns {', '.join(train)}, {split} "
            raise DataError(f"{message}{', '.join(table)}", "give all files the same")
    numbers = _columns(train, label, features, categories)
    kinds = {name: _merged([table[name] for table in splits.values()]) for name in train}
    for option, names in (("data.features", numbers), ("data.categories", categories)):
        for name in names:
            if option == "data.features" and kinds[name] == "text":
                text = _first_text(splits, rows, name)
                message = f"{option}: column {name} of {path} is text{text}"
                hint = f"give it a rule, data.categories=[{name}], or choose: data.features=[...]"
                raise ConfigError(message, hint)
            if option == "data.categories" and kinds[name] == "number":
                message = f"{option}: column {name} of {path} has fractions"
                raise ConfigError(message, "categories are texts or whole numbers")
    if kinds[label] == "text" and regression:
        message = f"data.regression=true: column {label} of {path} is text"
        raise ConfigError(message, "leave it out: texts become classes")
    classes = [*categories, *([label] if kinds[label] != "number" and not regression else [])]
    for table in splits.values():
        for name in classes:
            if table[name].dtype.kind == "f":
                table[name] = table[name].astype(np.int64)
    known = {name: sorted({*train[name].tolist()}) for name in classes}
    made: dict[str, Examples] = {}
    for split, table in splits.items():
        fields: Examples = {}
        if numbers:
            stacked = [_float32(table[name], name, rows[split]) for name in numbers]
            fields["features"] = np.stack(stacked, axis=1)
        for name in (*categories, label):
            if name in known:
                codes = _codes(table[name], known[name], name, rows[split])
            fields["label" if name == label else name] = (
                codes if name in known else _float32(table[name], name, rows[split])
            )
        made[split] = fields
    return Dataset(
        "table",
        made["train"],
        made["test"],
        validation=made.get("validation"),
        class_names=tuple(map(str, known.get(label, ()))),
    )


def _divided(
    table: Table, path: Path, fraction: float
) -> tuple[dict[str, Table], dict[str, Place]]:
    """Return the rows to train on and to test on, in their order, and how to call them."""
    examples = len(next(iter(table.values())))
    count = counted("data.test_fraction", fraction, examples)
    train, test = held_out(cache.sha256_of(path), examples, count)
    parts = {"train": train, "test": test}
    tables_ = {
        split: {name: column[rows] for name, column in table.items()}
        for split, rows in parts.items()
    }
    return tables_, {split: partial(_place, path, rows) for split, rows in parts.items()}


def _place(path: Path, rows: Column, row: int) -> str:
    return tables.place(path, int(rows[row]))


def _columns(
    train: Table, label: str, features: Sequence[str] | None, categories: Sequence[str]
) -> list[str]:
    """Return the columns of numbers, after a check of all names."""
    has = f"the table has {', '.join(train)}"
    given = {"data.label": [label], "data.categories": [*categories]}
    given |= {"data.features": [*(features or ())]}
    used: dict[str, str] = {}
    for option, names in given.items():
        for name in names:
            if name not in train:
                raise ConfigError(f"{option}={name}: there is no such column", has)
            if name in used:
                hint = "name a column once"
                raise ConfigError(f"{option}={name}: {used[name]} names it, too", hint)
            used[name] = option
    if clash := {"features", "label"} & {*categories}:
        message = f"data.categories={clash.pop()}: another field has that name"
        raise ConfigError(message, "rename the column")
    if features is None:
        features = [name for name in train if name not in used]
    if not features and not categories:
        raise ConfigError(f"data.label={label}: no other column is left to predict it from", has)
    return [*features]


def _merged(columns: Sequence[Column]) -> str:
    """Return what a column is in all splits: text, number, or whole for whole numbers."""
    if any(map(_is_text, columns)):
        return "text"
    whole = all(
        np.all((column % 1 == 0) & (abs(column) < EXACT))
        for column in columns
        if column.dtype.kind == "f"
    )
    return "whole" if whole else "number"


def _is_text(column: Column) -> bool:
    return column.dtype == object


def _first_text(splits: Mapping[str, Table], rows: Mapping[str, Place], name: str) -> str:
    """Return the first value that is no number, for a message."""
    for split, table in splits.items():
        for row, value in enumerate(table[name].tolist()):
            if not tables.is_number(value):
                return f" ({rows[split](row)} has {value!r})"
    return ""


def _float32(column: Column, name: str, place: Place) -> Column:
    with np.errstate(over="ignore"):
        numbers = column.astype(np.float32)
    if not (finite := np.isfinite(numbers)).all():
        row = int(np.argmin(finite))
        message = f"{place(row)}: {column[row]} in column {name} is too large for float32"
        raise DataError(message, "scale the column, or leave the row out")
    return numbers


def _codes(column: Column, known: Sequence[object], name: str, place: Place) -> Column:
    """Return the place of each value among those of the training split, int32."""
    codes = {value: code for code, value in enumerate(known)}
    values = column.tolist()
    for row, value in enumerate(values):
        if value not in codes:
            message = f"{place(row)}: {value!r} in column {name} is not in the training split"
            raise DataError(message, "put an example of it there, or leave the row out")
    return np.array([codes[value] for value in values], np.int32)
