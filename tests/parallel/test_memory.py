"""How much memory this process uses."""

import mmap

import numpy as np

from trainer.parallel import memory


def test_memory_that_is_taken_is_seen():
    before = memory.host_mib()
    with mmap.mmap(-1, 100 * 2**20) as taken:  # new pages, not what malloc has kept
        np.frombuffer(taken, np.uint8)[:] = 1
        assert 90 < memory.host_mib() - before < 150


def test_cpus_have_no_statistics_of_their_memory():
    assert memory.device_mib() == {}
