"""Wrong tables, texts, records and mixtures are refused with the rule and the fix."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from support.kinds_of_files import TABLE, as_mixture, as_text, csv, loaded

from trainer.formats import records
from trainer.job.errors import ConfigError, DataError


def record_files(*examples):
    return lambda folder: records.write(folder / "x.array_record", examples)


def damaged_records(folder):
    draw = np.random.default_rng(0)
    record_files(*({"x": draw.integers(0, 256, 8000, np.uint8)} for _ in range(50)))(folder)
    data = bytearray((folder / "x.array_record").read_bytes())
    data[3000] ^= 1
    (folder / "x.array_record").write_bytes(data)


def semicolons(folder):
    (folder / "houses.csv").write_text("size;city;kind\n1;Rome;dear\n")


def changed(**columns):
    return lambda folder: csv(folder / "houses.csv", TABLE | columns)


NOT_ALL = [0.5, "NA", *TABLE["size"][2:]]
LARGE = [0.5, 1e300, *TABLE["size"][2:]]
HOLE = [0.5, "", *TABLE["size"][2:]]
HOLES = [0.5, "", "", *TABLE["size"][3:]]
LATE = [*TABLE["city"][:-1], "Lima"]
TABLE_WORDS = ("data=table", "data.root=houses.csv", "data.label=kind")
MIX = ("data=mixture", "data.sets.a.name=arrays", "data.sets.a.root=clean")
FOLDER = ("data=table", "data.root=.", "data.label=kind")
FEW = (*TABLE_WORDS, "data.features=[size]")
TEXT_WORDS = ("data=text", "data.root=text")
RECORDS = ("data=records", "data.root=x.array_record", "data.cache_dir=cache")
WRONG = [
    (changed(), ["data=table", "data.root=houses.csv"], "data.label=null: data=table needs it"),
    (
        changed(),
        [*TABLE_WORDS],
        "data.features: column city of .*houses.csv is text .*houses.csv: row 1 .*has 'Rome'.: ",
    ),
    (changed(), [*TABLE_WORDS, "data.features=[sise]"], r"data.features=sise: there is no such"),
    (changed(), [*TABLE_WORDS, "data.features=[kind]"], r"data.features=kind: data.label names"),
    (changed(), [*TABLE_WORDS, "data.categories=[city,size]"], "column size of .* has fractions"),
    (changed(), [*TABLE_WORDS, "data.regression=true", "data.features=[size]"], "kind of .* is te"),
    (changed(), [*TABLE_WORDS, "data.test_fraction=1"], r"data.test_fraction=1.0: use a number in"),
    (changed(), [*FEW, "data.test_fraction=0"], "data.test_fraction=0.0: none of the 60 training"),
    (changed(size=HOLE), [*TABLE_WORDS], "houses.csv: row 2 below the names has no number or"),
    (
        changed(size=HOLES),
        [*TABLE_WORDS],
        r"row 2 below the names has no .* size \(2 such rows\): fill",
    ),
    (semicolons, [*TABLE_WORDS], "houses.csv: its columns are separated by semicolons: use commas"),
    (
        changed(size=NOT_ALL),
        [*FEW],
        "size of .* is text .*row 2 below the names has 'NA'.: give it a",
    ),
    (
        changed(size=LARGE),
        [*FEW],
        "row 2 below the names: 1e.300 in column size is too large for f",
    ),
    (
        changed(size=["x,y"] * 60),
        [*TABLE_WORDS],
        r"row 1 below the names has 5 values for 4 columns",
    ),
    (
        lambda f: [csv(f / "train.csv"), csv(f / "test.csv", TABLE | {"city": LATE})],
        [*FOLDER, "data.categories=[city]"],
        "is not in the tr",
    ),
    (lambda f: (f / "houses.csv").write_text("a,a\n1,2\n"), [*TABLE_WORDS], "has the names a, a: "),
    (lambda f: (f / "houses.csv").write_text("1,2\n3,4\n"), [*TABLE_WORDS], "has the names 1, 2: "),
    (lambda f: (f / "houses.csv").write_text("a,b\n"), [*TABLE_WORDS], "houses.csv: has no rows"),
    (
        lambda f: (f / "houses.csv").write_bytes(b"a\n\xff\n"),
        [*TABLE_WORDS],
        "cannot be read .'utf",
    ),
    (
        lambda f: parquet.write_table(
            pyarrow.table({"a": pyarrow.array([], "str")}), f / "t.parquet"
        ),
        [TABLE_WORDS[0], "data.root=t.parquet", TABLE_WORDS[2]],
        "t.parquet: has no rows",
    ),
    (
        lambda f: (f / "t.parquet").write_bytes(b"PAR1"),
        [TABLE_WORDS[0], "data.root=t.parquet", TABLE_WORDS[2]],
        "t.parquet: cannot be read",
    ),
    (
        lambda f: csv(f / "other.csv"),
        [TABLE_WORDS[0], "data.root=.", TABLE_WORDS[2]],
        "data.root=.*: no file .csv or .parquet train.* there, it holds other.csv",
    ),
    (lambda f: (f / "text").touch(), [*TEXT_WORDS], "text: is empty"),
    (lambda f: None, [*TEXT_WORDS], "text: cannot be read .No such file"),
    (as_text, [*TEXT_WORDS, "data.window=5000"], "train has .* bytes, and a window 5,000: use a"),
    (as_text, [*TEXT_WORDS, "data.label=a"], "data.label=a: only data=table has it: choose that"),
    (
        record_files({"x": 1}, {"x": 1.0}),
        [*RECORDS],
        r"record 1 has x float64.*, the first x int64",
    ),
    (
        record_files({"x": 1}, {"x": 1, "y": 1}),
        [*RECORDS],
        r"record 1 has x int64.*, y int64.*, the",
    ),
    (record_files({}, {}), [*RECORDS], "x.array_record: record 0 has no field: give all the same"),
    (lambda f: None, [RECORDS[0], f"data.root={'a' * 300}.array_record"], "read .File name too l"),
    (
        record_files({"x": 1}),
        [*RECORDS],
        "data.test_fraction=0.2: holds out all 1 training examples:",
    ),
    (damaged_records, [*RECORDS], "x.array_record: a record is damaged .*mismatch"),
    (
        lambda f: (f / "x.array_record").write_bytes(b"a" * 999),
        [*RECORDS],
        r"x.array_record: is damaged \(Array",
    ),
    (lambda f: None, [*RECORDS], "x.array_record: cannot be read .No such file"),
    (lambda f: None, [RECORDS[0], "data.root=x.csv"], "x.csv: cannot be read .No such file"),
    (lambda f: (f / "x").touch(), [RECORDS[0], "data.root=x"], "x: is not a .array_record or"),
    (as_mixture, ["data=mixture"], "data.sets=null: data=mixture needs it, like data.sets={a: {n"),
    (
        as_mixture,
        [MIX[0], "data.sets.a.name=mixture"],
        "data.sets=.*: give sets by name, each with",
    ),
    (as_mixture, [*MIX, "data.sets.a.rot=b"], r"data.sets.a: .*rot"),
    (as_mixture, [*MIX, "data.sets.a.root=null"], "data.sets.a: data.root=null: data=arrays needs"),
    (as_mixture, [*MIX, "data.weights.b=2"], "data.weights.b=2.0: no set has that name: data.sets"),
    (as_mixture, [*MIX, "data.weights.a=0"], "data.weights=.*: use finite numbers above 0"),
    (
        as_mixture,
        [*MIX, "data.sets.b.name=arrays", "data.sets.b.root=noisy", "data.weights.a=3.14159"],
        "data.weights=.* 314,159 : 100,000: use rounder ones",
    ),
    (
        as_mixture,
        [*MIX, "data.sets.b.name=mnist_5k"],
        "data.sets: a has the fields image uint8.4, ",
    ),
]


@pytest.mark.parametrize(("write", "words", "message"), WRONG, ids=[m for *_, m in WRONG])
def test_wrong_uses_are_refused_with_the_rule_and_the_fix(
    tmp_path, monkeypatch, write, words, message
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    with pytest.raises((ConfigError, DataError), match=message) as raised:
        loaded(*words)
    assert raised.value.hint or ": " in str(raised.value)
