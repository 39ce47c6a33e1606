"""Tables, texts and mixtures: read right, trained from the command line, or refused with a rule."""

import json
import re

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from support.in_process import summary_of, train

from trainer.commands import evaluate
from trainer.config.compose import compose
from trainer.data.stream import Plan, Superbatches, iterate
from trainer.export import command as export
from trainer.formats import records
from trainer.job.errors import ConfigError, DataError
from trainer.job.signals import StopRequest
from trainer.sources.load import load

TABLE = {
    "size": [0.5, 1.5, 2.5, 0.25, 1.0] * 12,
    "rooms": [1, 2, 3, 1, 2] * 12,
    "city": ["Rome", "Oslo", "Oslo", "Rome", "Bern"] * 12,
    "kind": ["flat", "house", "house", "flat", "flat"] * 12,
}
TEXT = b"".join(b"line %d of a text\n" % number for number in range(200))

MODEL = """
import jax, jax.numpy as jnp
from trainer.functional import linear

def init(key, example, options):
    return linear.init(key, *example["features"].shape, 2)

def fwd(example, weights, options):
    return linear.fwd(jnp.asarray(example["features"]), weights)
"""
BYTES = """
import jax, jax.numpy as jnp

def init(key, example, options):
    return {"next": jnp.zeros((256, 256))}

def fwd(example, weights, options):
    return weights["next"][jnp.asarray(example["tokens"])[:-1].astype(jnp.int32)]

def loss(logits, example):
    wanted = jnp.asarray(example["tokens"])[1:].astype(jnp.int32)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[:, None], axis=1))
"""


def csv(path, columns=TABLE):
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]))
    return path


def images(folder, count, seed):
    folder.mkdir()
    draw = np.random.default_rng(seed)
    for split, examples in (("train", count), ("test", 10)):
        pixels = draw.integers(0, 256, (examples, 4, 4), np.uint8)
        np.save(folder / f"{split}_image.npy", pixels)
        np.save(folder / f"{split}_label.npy", np.arange(examples) % 3)
    return folder


def as_csv(folder):
    words = ("data=table", f"data.root={csv(folder / 'houses.csv')}", "data.label=kind")
    return (*words, "data.categories=[city]", *of_model(folder, MODEL))


def as_parquet(folder):
    (folder / "houses").mkdir()
    for split, rows in (("train", slice(0, 50)), ("test", slice(50, 60))):
        part = {name: column[rows] for name, column in TABLE.items()}
        parquet.write_table(pyarrow.table(part), folder / f"houses/{split}.parquet")
    words = ("data=table", f"data.root={folder / 'houses'}", "data.label=kind")
    return (*words, "data.features=[size,rooms]", *of_model(folder, MODEL))


def as_text(folder):
    (folder / "text").write_bytes(TEXT)
    words = ("data=text", f"data.root={folder / 'text'}", "data.window=16", "data.stride=10")
    return (*words, *of_model(folder, BYTES))


def as_mixture(folder):
    sets = {"clean": images(folder / "clean", 50, 0), "noisy": images(folder / "noisy", 20, 1)}
    words = [f"data.sets.{name}.root={path}" for name, path in sets.items()]
    words += [f"data.sets.{name}.name=arrays" for name in sets]
    return ("data=mixture", *words, "data.weights.noisy=3", "model.hidden_sizes=[4]")


def as_records(folder):
    (folder / "digits").mkdir()
    draw = np.random.default_rng(2)
    for split, count in (("train", 60), ("test", 10)):
        examples = (
            {"image": draw.integers(0, 256, (4, 4), np.uint8), "label": np.int64(i % 3)}
            for i in range(count)
        )
        records.write(folder / "digits" / f"{split}.array_record", examples)
    words = ("data=records", f"data.root={folder / 'digits'}", f"data.cache_dir={folder / 'c'}")
    return (*words, "model.hidden_sizes=[4]")


KINDS = {
    "csv": as_csv,
    "parquet": as_parquet,
    "text": as_text,
    "records": as_records,
    "mixture": as_mixture,
}
kinds = pytest.mark.parametrize("write", KINDS.values(), ids=KINDS)


def of_model(folder, source):
    (folder / "mine.py").write_text(source)
    return ("model=module", f"model.module={folder / 'mine.py'}")


def loaded(*words):
    (job,) = compose(words)
    quiet = {"progress": lambda *_: None, "poll": lambda: None, "warn": pytest.fail}
    return load(job.config.data, **quiet)


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


def record_files(*examples):
    return lambda folder: records.write(folder / "x.array_record", examples)


def damaged_records(folder):
    draw = np.random.default_rng(0)
    record_files(*({"x": draw.integers(0, 256, 8000, np.uint8)} for _ in range(50)))(folder)
    data = bytearray((folder / "x.array_record").read_bytes())
    data[3000] ^= 1
    (folder / "x.array_record").write_bytes(data)


def changed(**columns):
    return lambda folder: csv(folder / "houses.csv", TABLE | columns)


NOT_ALL = [0.5, "NA", *TABLE["size"][2:]]
LARGE = [0.5, 1e300, *TABLE["size"][2:]]
HOLE = [0.5, "", *TABLE["size"][2:]]
LATE = [*TABLE["city"][:-1], "Lima"]
TABLE_WORDS = ("data=table", "data.root=houses.csv", "data.label=kind")
MIX = ("data=mixture", "data.sets.a.name=arrays", "data.sets.a.root=clean")
FOLDER = ("data=table", "data.root=.", "data.label=kind")
FEW = (*TABLE_WORDS, "data.features=[size]")
TEXT_WORDS = ("data=text", "data.root=text")
RECORDS = ("data=records", "data.root=x.array_record", "data.cache_dir=cache")
WRONG = [
    (changed(), ["data=table", "data.root=houses.csv"], "data.label=None: data=table needs it"),
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
    (as_mixture, ["data=mixture"], "data.sets=None: data=mixture needs it, like data.sets={a: {n"),
    (
        as_mixture,
        [MIX[0], "data.sets.a.name=mixture"],
        "data.sets=.*: give sets by name, each with",
    ),
    (as_mixture, [*MIX, "data.sets.a.rot=b"], r"data.sets.a: .*rot"),
    (as_mixture, [*MIX, "data.sets.a.root=null"], "data.sets.a: data.root=None: data=arrays needs"),
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
