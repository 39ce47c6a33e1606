import mmap
import time

import numpy as np
import pytest

from trainer.parallel import memory
from trainer.tracking.goodput import Laps, PhaseTimer


def test_the_parts_of_a_step_add_up_to_the_time_by_the_clock():
    timer = PhaseTimer()
    with timer.phase("step"):
        time.sleep(0.01)  # before the first lap: it does not count
    laps, began = Laps(timer), time.perf_counter()
    for _ in range(2):
        with timer.phase("data_wait"):
            time.sleep(0.02)
        with timer.phase("step"):
            time.sleep(0.03)
        with timer.phase("evaluate"):
            time.sleep(0.01)
    found = laps.lap(4)
    wall = 1000 * (time.perf_counter() - began) / 4
    assert found["data_wait"] >= 10
    assert found["compute"] >= 15
    assert found["rest"] >= 5
    assert sum(found.values()) <= wall
    timer.seconds["step"] += 0.5  # now of the second lap alone
    assert laps.lap(10)["compute"] == pytest.approx(50)


def test_memory_that_is_taken_is_seen():
    before = memory.host_mib()
    with mmap.mmap(-1, 100 * 2**20) as taken:  # new pages, not what malloc has kept
        np.frombuffer(taken, np.uint8)[:] = 1
        assert 90 < memory.host_mib() - before < 150


def test_cpus_do_not_tell_of_device_memory():
    assert memory.device_mib() == {}
