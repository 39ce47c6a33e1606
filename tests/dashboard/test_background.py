import threading

import pytest

from trainer.dashboard.background import Background


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


def test_the_submitter_does_not_wait_until_many_are_there(background):
    go = threading.Event()

    def slow(number):
        assert go.wait(30)
        return number

    for number in range(4):
        background.submit(lambda number=number: slow(number))
    assert background.collect() == []
    threading.Timer(0.2, go.set).start()
    background.submit(lambda: "last")  # comes back when the first is done
    assert go.is_set()
    assert background.collect(wait=True) == [0, 1, 2, 3, "last"]


def test_what_a_job_raises_is_told_and_the_next_is_done(background):
    background.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        background.collect(wait=True)
    background.submit(lambda: 1)
    assert background.collect(wait=True) == [1]
