"""Batches are sent one dispatch ahead, in order, with what belongs to their steps."""

import numpy as np
import pytest

from trainer.data.dataset import Superbatch
from trainer.parallel.mesh import make_mesh
from trainer.tracking.goodput import PhaseTimer
from trainer.train import feed

FIRST = 5  # step


def schedule(steps):
    return (steps / 10).astype(np.float32)


@pytest.fixture
def read():
    """How many superbatches have been read of the stream."""
    return []


@pytest.fixture
def feeder(read):
    def batches():
        for k in (2, 3, 1):
            read.append(k)
            image = np.full((k, 4, 7), len(read), np.uint8)
            yield Superbatch({"image": image}, np.ones((k, 4), np.uint8))

    return feed.Feeder(make_mesh(2), schedule, batches(), FIRST, 0, PhaseTimer())


def test_all_of_a_stream_comes_in_order_with_its_steps_and_rates(feeder):
    numbers, values = [], []
    for ahead in (True, False, True):
        sent = feeder.take()
        if ahead:
            feeder.send_ahead()
        numbers.append(np.asarray(sent.steps).tolist())
        values.append(int(sent.batch.examples["image"][0, 0, 0]))
        np.testing.assert_array_equal(sent.lrs, schedule(np.asarray(sent.steps)))
    assert numbers == [[5, 6], [7, 8, 9], [10]]
    assert values == [1, 2, 3]
    feeder.send_ahead()  # behind the end: nothing
    with pytest.raises(StopIteration):
        feeder.take()


def test_one_dispatch_is_read_ahead_and_never_two(feeder, read):
    feeder.take()
    assert len(read) == 1
    feeder.send_ahead()
    feeder.send_ahead()
    assert len(read) == 2
    feeder.take()
    assert len(read) == 2


def test_a_vote_goes_to_every_device_of_this_process(feeder):
    mesh, sent = make_mesh(2), feeder.take()
    for asked in (False, True):
        inputs = feed.inputs(mesh, sent, asked)
        np.testing.assert_array_equal(inputs.stop_votes, np.full((2, 2), asked, np.uint8))
        assert inputs.batch is sent.batch
