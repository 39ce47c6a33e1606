import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks import pictures

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1)


def count(labels, predictions, classes=0):
    return pictures.confusion_counts({"label": labels}, {"class": predictions}, classes)


@given(PAIRS)
def test_every_example_counts_once_in_its_own_cell(pairs):
    labels, predictions = np.array(pairs, np.uint8).reshape(-1, 2).T
    counts = count(labels, predictions, 7)
    assert counts.dtype == np.int64
    expected = [[pairs.count((label, said)) for said in range(7)] for label in range(7)]
    assert counts.tolist() == expected


@given(PAIRS)
def test_shares_are_of_the_class(pairs):
    labels, predictions = np.array(pairs, np.uint8).reshape(-1, 2).T
    shares = pictures.class_shares(count(labels, predictions, 7))
    for label in range(7):
        there = labels == label
        if there.any():
            assert shares[label].sum() == pytest.approx(1)
            assert shares[label, label] == (predictions[there] == label).mean()
        else:
            assert np.isnan(shares[label]).all()


def test_classes_beyond_128_do_not_overflow():
    labels = np.array([255, 255, 0], np.uint8)
    counts = count(labels, labels[::-1])
    assert counts.shape == (256, 256)
    assert counts[255, 255] == counts[255, 0] == counts[0, 255] == 1
    assert counts.sum() == 3


def test_other_tasks_have_none():
    labels = np.zeros(2, np.uint8)
    assert pictures.confusion_counts({"label": labels}, {}) is None
    assert pictures.confusion_counts({"label": labels[:, None]}, {"class": labels}) is None
    assert pictures.confusion_counts({"x": labels}, {"class": labels}) is None
