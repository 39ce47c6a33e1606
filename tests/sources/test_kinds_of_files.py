"""Tables, texts, records and mixtures are read right, and trained from the command line."""

import json
import re

import numpy as np
import pytest
from support.in_process import summary_of, train
from support.kinds_of_files import (
    TABLE,
    TEXT,
    as_csv,
    as_mixture,
    as_parquet,
    as_records,
    as_text,
    csv,
    loaded,
)

from trainer.commands import evaluate
from trainer.data.stream import Plan, Superbatches, iterate
from trainer.export import command as export
from trainer.formats import records
from trainer.job.signals import StopRequest

KINDS = {
    "csv": as_csv,
    "parquet": as_parquet,
    "text": as_text,
    "records": as_records,
    "mixture": as_mixture,
}
kinds = pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)


@kinds
def test_it_trains_resumes_is_evaluated_and_exported(tmp_path, write, capsys):
    words = (*write(tmp_path), "train.global_batch_size=8", "train.steps_per_dispatch=2")
    words += ("train.pictures_every_epochs=null",)
    for name, last in (("run", "train.max_steps=3"), ("run", ""), ("whole", "")):
        done = train(tmp_path, *words, "train.epochs=2", f"run.dir={name}", *[last][: bool(last)])
        assert done.returncode == 0, done.stderr
    run, whole = (summary_of(tmp_path, name) for name in ("run", "whole"))
    assert run["resumed_from_step"] == 3
    assert run["weights_sha256"] == whole["weights_sha256"]
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run"), "--json"], StopRequest()) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["loss"] == pytest.approx(run["test_loss"])
    assert "not, bit by bit" not in out.err
    assert export.main([str(tmp_path / "run"), str(tmp_path / "model")], StopRequest()) == 0
    assert (tmp_path / "model" / "model.json").is_file()


@kinds
def test_the_same_batches_on_1_2_and_4_processes_and_after_a_restart(tmp_path, write):
    dataset = loaded(*write(tmp_path))
    count = len(next(iter(dataset.train.values())))
    steps = -(-count // 8)

    def batches(processes, first=0):
        parts = []
        for process in range(processes):
            rows = slice(process * 8 // processes, (process + 1) * 8 // processes)
            source = Superbatches(
                dataset.train,
                plan=Plan(steps, 3, 2 * steps),
                global_batch_size=8,
                rows=rows,
                seed=5,
                first_step=first,
                mixture=dataset.mixture,
            )
            parts.append([batch.examples for batch in iterate(source)])
        return {
            name: np.concatenate(
                [np.concatenate([part[name] for part in one]) for one in parts], axis=1
            )
            for name in dataset.train
        }

    whole = batches(1)
    for processes, first in ((2, 0), (4, 0), (2, 4)):
        for name, array in batches(processes, first).items():
            np.testing.assert_array_equal(array, whole[name][first:])


def test_a_table_becomes_features_codes_and_classes(tmp_path):
    path = csv(tmp_path / "houses.csv")
    words = ("data=table", f"data.root={path}", "data.label=kind", "data.validation_fraction=0")
    dataset = loaded(*words, "data.categories=[city]", "data.test_fraction=0.25")
    assert dataset.class_names == ("flat", "house")
    assert dataset.columns == (["size", "rooms"], {"city": ["Bern", "Oslo", "Rome"]})
    train, test = dataset.train, dataset.test
    assert {name: (a.dtype, a.shape) for name, a in train.items()} == {
        "features": (np.float32, (45, 2)),
        "city": (np.int32, (45,)),
        "label": (np.int32, (45,)),
    }
    rows = sorted(
        zip(
            *(np.concatenate([t[name] for t in (train, test)]) for name in ("city", "label")),
            strict=True,
        )
    )
    wanted = zip(TABLE["city"], TABLE["kind"], strict=True)
    assert rows == sorted((["Bern", "Oslo", "Rome"].index(c), int(k == "house")) for c, k in wanted)
    again = loaded(*words, "data.categories=[city]", "data.test_fraction=0.25")
    assert again.sha256 == dataset.sha256
    number = loaded(*words[:2], "data.label=rooms", "data.regression=true", "data.features=[size]")
    assert number.train["label"].dtype == np.float32
    assert number.class_names == ()


def test_a_column_is_text_in_all_files_or_in_none(tmp_path):
    for split, kinds in (("train", "12A"), ("test", "12")):
        columns = {"kind": [*kinds], "size": [*range(len(kinds))], "id": ["", *kinds[1:]]}
        csv(tmp_path / f"{split}.csv", columns | {"label": ["1.0", *["0.0"] * (len(kinds) - 1)]})
    words = ("data=table", f"data.root={tmp_path}", "data.label=label", "data.categories=[kind]")
    dataset = loaded(*words, "data.features=[size]", "data.validation_fraction=0")
    assert (dataset.train["kind"].tolist(), dataset.test["kind"].tolist()) == ([0, 1, 2], [0, 1])
    assert dataset.class_names == ("0", "1")
    assert dataset.train["label"].tolist() == [1, 0, 0]


def test_a_text_becomes_windows_that_overlap_by_one_byte(tmp_path):
    words = as_text(tmp_path)[:2]
    dataset = loaded(*words, "data.window=16", "data.test_fraction=0.25")
    test = TEXT[-round(len(TEXT) / 4) :]
    rest = TEXT[: -len(test)]
    validation = rest[-round(len(rest) / 10) :]
    for split, text in (("test", test), ("validation", validation), ("train", rest)):
        tokens = dataset.splits[split]["tokens"]
        for row in (0, 3, -1):
            at = row % len(tokens) * 16
            assert tokens[row].tobytes() == text[at : at + 17]
    assert len(dataset.train["tokens"]) == (len(rest) - len(validation) - 1) // 16


def test_a_set_of_a_mixture_is_validated_by_its_own_examples(tmp_path):
    dataset = loaded(*as_mixture(tmp_path), "data.validation_fraction=0.2")
    assert dataset.mixture == ((40, 16), (1, 3))
    assert len(dataset.validation["label"]) == 10 + 4
    assert len(dataset.test["label"]) == 20


def test_a_mixture_of_sets_without_validation_has_none(tmp_path):
    options = as_mixture(tmp_path)
    names = re.findall(r"data\.sets\.(\w+)\.name", " ".join(options))
    dataset = loaded(*options, *(f"data.sets.{name}.validation_fraction=0" for name in names))
    assert dataset.validation is None
    assert sum(dataset.mixture.sizes) == len(dataset.train["label"])


@pytest.mark.parametrize("same", [True, False])
def test_a_mixture_of_tables_has_their_columns_if_they_are_the_same(tmp_path, same):
    cities = TABLE["city"] if same else [city.lower() for city in TABLE["city"]]
    words = ["data=mixture"]
    for name, columns in (("a", TABLE), ("b", TABLE | {"city": cities})):
        root = csv(tmp_path / f"{name}.csv", columns)
        options = ("name=table", f"root={root}", "label=kind", "categories=[city]")
        words += [f"data.sets.{name}.{option}" for option in options]
    columns = (["size", "rooms"], {"city": ["Bern", "Oslo", "Rome"]})
    assert loaded(*words).columns == (columns if same else None)


def test_records_are_examples_and_a_part_of_one_file_is_for_testing(tmp_path):
    path = tmp_path / "all.array_record"
    examples = [{"x": np.full((2, 3), i, np.float32), "y": i} for i in range(10)]
    records.write(path, examples)
    words = ("data=records", f"data.root={path}", "data.validation_fraction=0")
    dataset = loaded(*words, f"data.cache_dir={tmp_path / 'cache'}")
    whole = np.concatenate([dataset.train["y"], dataset.test["y"]])
    assert (len(dataset.train["y"]), len(dataset.test["y"])) == (8, 2)
    assert sorted(whole) == list(range(10))
    assert whole.dtype == np.int32
    for split in (dataset.train, dataset.test):
        np.testing.assert_array_equal(split["x"][:][:, 1, 2], split["y"])
