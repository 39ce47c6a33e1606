import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.tasks import confusion

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)))


@given(PAIRS)
def test_every_example_counts_once_in_its_own_cell(pairs):
    labels, predictions = np.array(pairs, np.uint8).reshape(-1, 2).T
    counts = confusion.count(labels, predictions, 7)
    assert counts.dtype == np.int64
    expected = [[pairs.count((label, said)) for said in range(7)] for label in range(7)]
    assert counts.tolist() == expected


@given(PAIRS)
def test_shares_are_of_the_class(pairs):
    labels, predictions = np.array(pairs, np.uint8).reshape(-1, 2).T
    counts = confusion.count(labels, predictions, 7)
    shares, accuracies = confusion.normalized(counts), confusion.class_accuracies(counts)
    for label in range(7):
        there = labels == label
        if there.any():
            assert shares[label].sum() == pytest.approx(1)
            assert accuracies[label] == (predictions[there] == label).mean() == shares[label, label]
        else:
            assert not shares[label].any()
            assert np.isnan(accuracies[label])


def test_classes_beyond_128_do_not_overflow():
    labels = np.array([255, 255, 0], np.uint8)
    counts = confusion.count(labels, labels[::-1], 256)
    assert counts[255, 255] == counts[255, 0] == counts[0, 255] == 1
    assert counts.sum() == 3


@pytest.mark.parametrize(
    ("labels", "predictions"), [([1, 2], [1]), ([3], [0]), ([0], [3]), ([-1], [0])]
)
def test_what_does_not_fit_is_refused(labels, predictions):
    with pytest.raises(ValueError, match=r"expected two vectors|is not among 0 to 2"):
        confusion.count(np.array(labels), np.array(predictions), 3)
