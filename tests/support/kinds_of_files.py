"""Small data sets in the kinds of files that data= names, and what loads them."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from trainer.config.compose import compose
from trainer.data.report import Report
from trainer.formats import records
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


def of_model(folder, source):
    (folder / "mine.py").write_text(source)
    return ("model=module", f"model.module={folder / 'mine.py'}")


def loaded(*words):
    (job,) = compose(words)
    quiet = Report(lambda *_: None, lambda: None, pytest.fail)
    return load(job.config.data, quiet)
