import threading

import pytest

from trainer.background import Background


@pytest.fixture
def background():
    made = Background()
    yield made
    made.close()


def test_results_come_in_order_each_once(background):
    background.submit(lambda: 1)
    assert background.collect(wait=True) == [1]
    background.submit(lambda: 2)
    assert background.collect(wait=True) == [2]
    assert background.collect(wait=True) == []


def test_the_submitter_never_waits_and_of_those_that_wait_the_newest_is_done(background):
    started, go = threading.Event(), threading.Event()

    def slow():
        started.set()
        assert go.wait(30)
        return "slow"

    background.submit(slow)
    assert started.wait(30)
    for number in range(100):
        background.submit(lambda number=number: number)
    assert background.collect() == []
    go.set()
    assert background.collect(wait=True) == ["slow", 99]


def test_what_a_job_raises_is_told_and_the_next_is_done(background):
    background.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.collect(wait=True)
    background.submit(lambda: 1)
    assert background.collect(wait=True) == [1]
