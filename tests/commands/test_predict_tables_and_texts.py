"""`predict` reads tables and texts as the run read its own, or says what is wrong with them."""

import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from support.in_process import train
from support.kinds_of_files import TABLE, TEXT, as_csv, as_text, csv, of_model

import trainer
from trainer.export import command as export
from trainer.export import standalone
from trainer.job.errors import EXIT_DATA, DataError
from trainer.job.signals import StopRequest

HOUSES = """
import jax, jax.numpy as jnp
from trainer.functional import embed, linear

def init(key, example, options):
    ways = jax.random.split(key)
    return {"city": embed.init(ways[0], 3, 2), "head": linear.init(ways[1], 4, 2)}

def fwd(example, weights, options):
    city = embed.fwd(jnp.asarray(example["city"]), weights["city"])
    return linear.fwd(jnp.concatenate([jnp.asarray(example["features"]), city]), weights["head"])
"""
MINE = {"city": ["Oslo", "Rome"], "garden": ["yes", "no"], "rooms": [3, 1], "size": [0.75, 2]}
CITIES = ["Bern", "Oslo", "Rome"]
SMALL = ("train.epochs=2", "train.global_batch_size=8", "run.dir=run", "data.validation_fraction=0")


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """A run on a table, whose training file is gone."""
    folder = tmp_path_factory.mktemp("houses")
    done = train(folder, *as_csv(folder), *of_model(folder, HOUSES), *SMALL)
    assert done.returncode == 0, done.stderr
    (folder / "houses.csv").unlink()
    return folder / "run"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A run on windows of 16 bytes, every 10 bytes."""
    folder = tmp_path_factory.mktemp("text")
    done = train(folder, *as_text(folder), *SMALL)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def as_parquet(path, columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("write", [csv, as_parquet])
def test_a_table_without_labels_and_in_any_order(houses, tmp_path, predicted, write):
    file = write(tmp_path / f"new.{'csv' if write is csv else 'parquet'}", MINE)
    code, report, _ = predicted(houses, file)
    assert code == 0
    fields = {"features": np.float32([[0.75, 3], [2, 1]]), "city": np.int32([1, 2])}
    expected = trainer.load(houses).predict(fields)["probabilities"]
    given = [one["probabilities"] for one in report["predictions"]]
    np.testing.assert_array_equal(np.float32(given), expected)
    assert {one["name"] for one in report["predictions"]} <= {"flat", "house"}


def test_a_model_knows_its_columns(houses, text, tmp_path):
    columns = trainer.load(houses).columns
    assert columns == (["size", "rooms"], {"city": CITIES})
    assert trainer.load(text).columns is None
    assert export.main([str(houses), str(tmp_path / "model")], StopRequest()) == 0
    index = json.loads((tmp_path / "model" / "model.json").read_text())
    assert index["columns"] == {"features": ["size", "rooms"], "categories": {"city": CITIES}}
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "`features` are the columns size, rooms, in this order." in card
    assert "`city` has the codes 0 Bern, 1 Oslo, 2 Rome" in card
    run, features = standalone.load_model(tmp_path / "model"), np.array([[0.75, 3], [2, 1]])
    outputs = run({"features": features, "city": np.int32([1, 2])})  # float64 becomes float32
    expected = run({"features": np.float32(features), "city": np.int32([1, 2])})
    np.testing.assert_array_equal(outputs["logits"], expected["logits"])
    for code in (-1, 3):
        with pytest.raises(ValueError, match=f"^city has the code {code}: give 0 to 2$"):
            run({"features": features, "city": np.int32([0, code])})
    with pytest.raises(ValueError, match=r"^features is int64"):
        run({"features": features.astype(np.int64), "city": np.int32([1, 2])})


WRONG_TABLES = {
    "a column is missing": (
        {name: MINE[name] for name in ("city", "size")},
        "new.csv: there is no column rooms, it has city, size: ",
    ),
    "a text for a number": (
        MINE | {"rooms": [3, "many"]},
        "column rooms of .*new.csv is text .*new.csv: row 2 below the names has 'many'",
    ),
    "an unknown value": (
        MINE | {"city": ["Oslo", "Lima"]},
        "new.csv: row 2 below the names: 'Lima' in column city .* has Bern, Oslo, Rome: ",
    ),
    "numbers for texts": (MINE | {"city": [1, 2]}, "row 1 .*: '1' in column city .*Bern, Oslo"),
    "an empty value": (MINE | {"size": [1, ""]}, "row 2 below the names has no number or text in"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_table(houses, tmp_path, predicted, case):
    columns, message = WRONG_TABLES[case]
    code, report, error = predicted(houses, csv(tmp_path / "new.csv", columns))
    assert (code, report["predictions"]) == (EXIT_DATA, [])
    with pytest.raises(DataError, match=message):
        raise DataError(report["errors"][0]["error"])
    assert "new.csv" in error


def test_other_files_are_no_tables(houses, tmp_path, predicted):
    (tmp_path / "new.txt").write_text("a")
    code, report, _ = predicted(houses, tmp_path / "new.txt")
    assert code == EXIT_DATA
    assert "give them in a .csv, .parquet or .npz file" in report["errors"][0]["error"]


@pytest.mark.parametrize("city", [3, -1, 1000])
def test_codes_that_no_value_has(houses, tmp_path, predicted, city):
    np.savez(tmp_path / "x.npz", features=np.ones((2, 2), np.float32), city=[2, city])
    code, report, _ = predicted(houses, tmp_path / "x.npz")
    assert (code, report["predictions"]) == (EXIT_DATA, [])
    error = f"x.npz: city has the code {city}, which no value has: use 0 to 2 for Bern, Oslo, Rome"
    assert report["errors"][0]["error"].endswith(error)


def test_whole_numbers_are_categories_too(tmp_path, predicted):
    words = (*as_csv(tmp_path), *of_model(tmp_path, HOUSES.replace('"city"', '"rooms"')))
    options = ("data.categories=[rooms]", "data.features=[size,age]")
    csv(tmp_path / "houses.csv", TABLE | {"age": [*range(60)], "rooms": [2, 10, 30, 2, 10] * 12})
    assert train(tmp_path, *words, *options, *SMALL).returncode == 0
    model = trainer.load(tmp_path / "run")
    assert model.columns.categories == {"rooms": [2, 10, 30]}
    new = {"size": [1, 2], "age": [3, 4], "rooms": [30, 10]}
    _, report, _ = predicted(tmp_path / "run", csv(tmp_path / "new.csv", new))
    fields = {"features": np.float32([[1, 3], [2, 4]]), "rooms": np.int32([2, 1])}
    given = [one["probabilities"] for one in report["predictions"]]
    np.testing.assert_array_equal(np.float32(given), model.predict(fields)["probabilities"])
    for wrong, message in ((9.5, "9.5 in column rooms is"), ("x", "'x'): the model was trained")):
        columns = new | {"rooms": [30, wrong]}
        code, report, _ = predicted(tmp_path / "run", csv(tmp_path / "new.csv", columns))
        assert code == EXIT_DATA
        assert message in report["errors"][0]["error"]
        assert "2, 10, 30" in report["errors"][0]["error"]


def test_a_text_in_windows(text, tmp_path, predicted):
    (tmp_path / "new.txt").write_bytes(TEXT[:48])
    code, report, _ = predicted(text, tmp_path / "new.txt")
    assert code == 0
    starts = (0, 10, 20, 30)  # a window and the byte after it: 30 to 46
    tokens = np.array([[*TEXT[first : first + 17]] for first in starts], np.uint8)
    (expected,) = trainer.load(text).predict(tokens).values()
    given = [next(iter(one["outputs"].values())) for one in report["predictions"]]
    np.testing.assert_array_equal(np.float32(given), expected)


def test_a_text_shorter_than_a_window(text, tmp_path, predicted):
    for length, message in ((16, "has 16 bytes, and a window 16: give at least 17"), (0, "is emp")):
        (tmp_path / "new.txt").write_bytes(TEXT[:length])
        code, report, _ = predicted(text, tmp_path / "new.txt")
        assert (code, report["predictions"]) == (EXIT_DATA, [])
        assert message in report["errors"][0]["error"]
