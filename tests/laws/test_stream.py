"""The stream is a pure function of (seed, index), the same on any number of processes."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.dataset import Examples, Needs
from trainer.data.stream import Plan, Superbatches, iterate, permutation

NOTHING = Needs()


def numbered(size: int) -> Examples:
    """Images that carry their own index in four bytes."""
    images = np.arange(size, dtype=">u4").view(np.uint8).reshape(size, 4)
    return {"image": images, "label": (np.arange(size) % 10).astype(np.uint8)}


def make(size=50, batch=8, k=3, epochs=2, rows=None, seed=0, first_step=0, span=1, needs=NOTHING):
    steps_per_epoch = -(-size // batch)
    return Superbatches(
        numbered(size),
        plan=Plan(steps_per_epoch, k, epochs * steps_per_epoch, span),
        global_batch_size=batch,
        rows=rows or slice(0, batch),
        seed=seed,
        first_step=first_step,
        needs=needs,
    )


def steps_of(source, what="examples"):
    """Return per step the indices of the examples loaded, None where the batch is short."""
    steps = []
    for batch in iterate(source):
        for step, mask in enumerate(batch.mask):
            examples = getattr(batch, what)
            index = examples["image"][step].copy().view(">u4").ravel().astype(int)
            assert (examples["label"][step] == index % 10).all()
            steps.append([i if m else None for i, m in zip(index, mask, strict=True)])
    return steps


def test_every_epoch_shows_every_example_once_in_another_order():
    steps = steps_of(make())
    epochs = [
        [i for step in half for i in step if i is not None] for half in (steps[:7], steps[7:])
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(50))
    assert epochs[0] != epochs[1]
    assert steps[6].count(None) == steps[13].count(None) == 6


def test_without_a_seed_the_order_is_that_of_the_files():
    steps = steps_of(make(seed=None, epochs=1))
    assert [i for step in steps for i in step if i is not None] == list(range(50))


def test_the_order_depends_on_the_seed():
    assert steps_of(make(seed=1)) != steps_of(make(seed=2))


@given(
    size=st.integers(1, 60),
    per_process=st.integers(1, 5),
    processes=st.integers(1, 4),
    k=st.integers(1, 9),
)
def test_the_union_over_processes_is_what_one_process_loads(size, per_process, processes, k):
    batch = per_process * processes
    whole = steps_of(make(size, batch, k))
    parts = [
        steps_of(make(size, batch, k, rows=slice(i * per_process, (i + 1) * per_process)))
        for i in range(processes)
    ]
    assert whole == [list(chain(*rows)) for rows in zip(*parts, strict=True)]


@given(
    size=st.integers(1, 60),
    k=st.integers(1, 9),
    other_k=st.integers(1, 30),
    span=st.integers(1, 4),
    data=st.data(),
)
def test_a_restart_at_any_step_with_any_k_and_span_shows_the_same(size, k, other_k, span, data):
    whole = steps_of(make(size, k=k, epochs=3))
    first_step = data.draw(st.integers(0, len(whole)))
    source = make(size, k=other_k, epochs=3, first_step=first_step, span=span)
    assert steps_of(source) == whole[first_step:]


@given(
    size=st.integers(1, 60), k=st.integers(1, 9), rows=st.integers(0, 7), first_step=st.integers(0)
)
def test_the_other_of_an_example_comes_half_an_epoch_away(size, k, rows, first_step):
    orders = [
        [i for step in steps for i in step if i is not None]
        for steps in (steps_of(make(size, epochs=1)), steps_of(make(size))[-(-size // 8) :])
    ]
    whole, step = steps_of(make(size)), first_step % (2 * -(-size // 8))
    source = make(size, k=k, rows=slice(rows, 8), first_step=step, needs=Needs(other=True))
    for number, others in enumerate(steps_of(source, "other"), step):
        order = orders[number // -(-size // 8)]
        expected = [
            None if i is None else order[(order.index(i) + size // 2) % size]
            for i in whole[number][rows:]
        ]
        assert others == expected


@given(st.integers(1, 40), st.integers(1, 99), st.integers(1, 7), st.integers(1, 4))
def test_a_plan_covers_every_step_once_and_no_dispatch_crosses_a_span(per_epoch, k, epochs, span):
    plan = Plan(per_epoch, k, per_epoch * epochs, span)
    dispatches = [plan.steps(i) for i in range(plan.dispatches)]
    assert [step for steps in dispatches for step in steps] == list(range(plan.total_steps))
    for i, steps in enumerate(dispatches):
        assert 1 <= len(steps) <= k
        assert steps.start // (per_epoch * span) == (steps.stop - 1) // (per_epoch * span)
        assert {plan.dispatch_of(step) for step in steps} == {i}


def test_the_permutation_is_fixed_for_ever():
    assert permutation(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(0, 1, 8).tolist() != permutation(1, 0, 8).tolist()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_permutation_holds_every_index_once(size):
    assert sorted(permutation(3, 5, size)) == list(range(size))
