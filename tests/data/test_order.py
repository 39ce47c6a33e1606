"""The order of a mixture: shares, passes, and the same batches on every layout."""

import numpy as np
import pytest

from trainer.data.order import Mixture, whole
from trainer.data.stream import Plan, Superbatches, iterate

MIXTURES = {
    "3 : 1": ((40, 90), [3, 1]),
    "a small set is shown again and again": ((7, 50, 20), [0.2, 0.7, 0.1]),
    "seven": ((5, 60, 11, 30, 9, 8, 70), [17, 1, 40, 3, 3, 29, 5]),
    "one": ((30,), [2.5]),
}
mixtures = pytest.mark.parametrize(("sizes", "weights"), MIXTURES.values(), ids=MIXTURES)


def order_of(sizes, weights, epochs, seed=0):
    mixture = Mixture(sizes, whole(weights))
    order = np.concatenate([mixture.order(seed, epoch) for epoch in range(epochs)])
    return order, np.searchsorted(np.cumsum(sizes), order, "right")


@mixtures
def test_after_any_number_of_examples_each_set_has_its_share_within_one(sizes, weights):
    _, sets = order_of(sizes, weights, 40)
    shown = np.cumsum(sets[:, None] == np.arange(len(sizes)), axis=0)
    due = np.arange(1, len(sets) + 1)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(shown - due).max() < 1


@mixtures
def test_all_examples_of_a_set_come_before_one_comes_again(sizes, weights):
    order, sets = order_of(sizes, weights, 100)
    first = 0
    for number, size in enumerate(sizes):
        mine = order[sets == number]
        passes = mine[: len(mine) // size * size].reshape(-1, size)
        assert len(passes) > 1
        assert (np.sort(passes) == np.arange(first, first + size)).all()
        assert (passes[0] != passes[1:]).any()
        first += size
    again, _ = order_of(sizes, weights, 1)
    np.testing.assert_array_equal(order[: sum(sizes)], again)
    assert (order[: sum(sizes)] != order_of(sizes, weights, 1, seed=1)[0]).any()


def test_without_a_seed_a_set_keeps_its_order():
    order = Mixture((3, 4), (1, 1)).order(None, 0)
    assert order.tolist() == [0, 3, 1, 4, 2, 5, 0]


def steps_of(processes, k, first_step=0):
    """Return the numbers of the examples in each step, (steps, 12), as the processes load them."""
    sizes = (50, 9)
    numbers, loaded = np.arange(sum(sizes), dtype=np.int32), []
    for process in range(processes):
        rows = 12 // processes
        source = Superbatches(
            {"number": numbers},
            plan=Plan(5, k, 20),
            global_batch_size=12,
            rows=slice(process * rows, (process + 1) * rows),
            seed=3,
            first_step=first_step,
            mixture=Mixture(sizes, (1, 2)),
        )
        batches = [np.where(b.mask, b.examples["number"], -1) for b in iterate(source)]
        loaded.append(np.concatenate(batches))
    return np.concatenate(loaded, axis=1)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize(("k", "first_step"), [(1, 0), (3, 0), (4, 7), (5, 12)])
def test_the_same_batches_on_every_layout_and_after_a_restart(processes, k, first_step):
    np.testing.assert_array_equal(steps_of(processes, k, first_step), steps_of(1, 20)[first_step:])


def test_weights_without_a_simple_ratio_are_refused():
    assert whole([0.7, 0.3]) == (7, 3)
    assert whole([2, 1.5, 4]) == (4, 3, 8)
    with pytest.raises(ValueError, match="31,415,927 : 10,000,000"):
        whole([3.1415927, 1])
