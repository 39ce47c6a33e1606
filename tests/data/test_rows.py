"""Some rows of an array, and the validation split that is made of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.dataset import Dataset, bytes_of_one, first, size
from trainer.data.rows import Rows, gather
from trainer.data.split import with_validation
from trainer.job.errors import ConfigError

ARRAY = np.arange(7 * 3 * 2).reshape(7, 3, 2).astype(np.int16)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.data())
def test_rows_are_the_array_of_these_rows(numbers, data):
    rows, right = Rows(ARRAY, np.array(numbers)), ARRAY[numbers]
    assert (rows.shape, rows.ndim, rows.dtype, rows.nbytes) == (
        *(right.shape, right.ndim, right.dtype, right.nbytes),
    )
    assert np.array_equal(np.asarray(rows), right)
    index = np.array(data.draw(st.lists(st.integers(0, len(numbers) - 1), max_size=6)), int)
    for where in (slice(None), slice(1, 3), index, 0):
        assert np.array_equal(rows[where], right[where])
    assert np.array_equal(gather(rows, index.reshape(1, -1)), right[index][None])
    assert np.array_equal(gather(Rows(rows, index), np.arange(len(index))), right[index])


def dataset(examples, sha256="a"):
    train = {"x": np.arange(examples), "y": np.arange(examples) % 3}
    return Dataset("numbers", train, {"x": np.arange(2), "y": np.arange(2)}, sha256)


def test_the_parts_are_the_whole_and_keep_its_order():
    whole = with_validation(dataset(60), 1 / 12)
    train, validation = (np.asarray(part["x"]) for part in (whole.train, whole.validation))
    assert (size(whole.train), size(whole.validation), size(whole.test)) == (55, 5, 2)
    assert sorted([*train, *validation]) == [*range(60)]
    assert [*train] == sorted(train)
    assert np.array_equal(np.asarray(whole.validation["y"]), validation % 3)
    assert bytes_of_one(whole.train) == 16
    assert np.array_equal(first(whole.train, 4)["x"], train[:4])


def test_which_examples_depends_on_the_data_alone():
    parts = [
        [*np.asarray(with_validation(dataset(60, sha256), 0.1).validation["x"])]
        for sha256 in ("a", "a", "b")
    ]
    assert parts[0] == parts[1] != parts[2]
    # Written down: another version of the trainer selects by the same examples.
    assert parts[0] == [11, 16, 22, 39, 48, 49]


def test_a_split_of_its_own_is_kept_and_a_fraction_of_zero_makes_none():
    own = dataset(10)._replace(validation={"x": np.arange(1), "y": np.arange(1)})
    assert with_validation(own, 0.5) is own
    assert with_validation(dataset(10), 0.0).validation is None


def test_a_memory_mapped_array_is_not_read(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(1000))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = with_validation(Dataset("mapped", {"x": mapped}, {"x": mapped}, "a"), 0.1)
    assert whole.train["x"].array is mapped
    assert whole.validation["x"].array is mapped


@pytest.mark.parametrize(("examples", "fraction"), [(1, 0.1), (2, 0.9)])
def test_too_few_examples_are_named(examples, fraction):
    with pytest.raises(
        ConfigError, match=rf"data\.validation_fraction={fraction}: holds out all {examples}"
    ):
        with_validation(dataset(examples), fraction)
