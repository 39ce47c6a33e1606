"""One all-reduce a step on any number of devices, and the model of docs/scaling.md."""

# ruff: noqa: E402

import json
import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "docs")]

import scaling_model as scaling
from scaling_model import COUNTS, GPUS, MLP, NETS
from support.traffic import Traffic, traffic

from trainer.data.stream import Plan, Superbatches
from trainer.parallel.mesh import AXIS, make_mesh

WEIGHTS = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
METRICS = 3 + 2  # loss, accuracy, examples; the bound on the gradients, and the votes to stop


@pytest.mark.slow
def test_the_real_step_has_one_all_reduce_on_any_number_of_devices():
    counts = [2, 4, 8, 512]
    process = subprocess.run(
        [sys.executable, "-m", "support.traffic", *map(str, counts)],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=512",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    answer = json.loads(process.stdout)
    assert WEIGHTS == 669_706 == MLP.weights
    for count in counts:
        step = answer[str(count)]
        assert step["collectives"] == {"all-reduce": 1}, count
        assert step["weights"] == WEIGHTS
        assert step["bytes"] == (WEIGHTS + METRICS) * 4 == MLP.message
        assert sum(step["arrays"]) == WEIGHTS + METRICS


def compiled(function, *shapes):
    mesh = make_mesh(8)
    whole, rows = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=whole)
    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return traffic(jax.jit(mapped).lower(*arguments).compile().as_text())


def test_collectives_are_counted_with_what_they_carry():
    def one(x):
        return lax.psum((x, x[:, 0]), AXIS)

    def two(x):
        return lax.psum(jax.numpy.tanh(lax.psum(x, AXIS)) * x, AXIS)

    def other(x):
        return lax.psum(lax.all_gather(x, AXIS), AXIS)

    assert compiled(one, (8, 5)) == Traffic({"all-reduce": 1}, [5, 1], 24)
    assert compiled(two, (8, 5)) == Traffic({"all-reduce": 2}, [5, 5], 40)
    assert compiled(other, (8, 5)).collectives == {"all-gather": 1, "all-reduce": 1}


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_host_work_of_a_process_does_not_grow_with_their_number(shuffle):
    """A process gathers as many rows, and allocates as much, among 512 as alone."""
    local, k, examples = 4, 8, 40_000
    images = np.zeros((examples, 16), np.uint8)
    split = {"image": images, "label": np.zeros(examples, np.uint8)}
    allocated = {}
    for processes in (1, 8, 512):
        batch = local * processes
        source = Superbatches(
            split,
            plan=Plan(-(-examples // batch), k, 1_000),
            global_batch_size=batch,
            rows=slice(batch - local, batch),  # those of the last process
            seed=3 if shuffle else None,
            first_step=0,
        )
        source[0]  # draws the order of the epoch, which all processes share
        tracemalloc.start()
        superbatch = source[1]
        allocated[processes] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert superbatch.examples["image"].shape == (k, local, 16)
        assert superbatch.mask.all()
    assert max(allocated.values()) < 1.1 * min(allocated.values()), allocated


def test_an_all_reduce_among_one_is_free_and_takes_longer_among_more():
    assert scaling.all_reduce(MLP.message, 1, GPUS) == 0
    for way in (scaling.ring, scaling.tree):
        assert way(1e6, 1, GPUS.network) == 0
        times = [way(1e6, p, GPUS.network) for p in (2, 4, 8, 64, 4096)]
        assert times == sorted(times)


def test_a_ring_sends_nearly_twice_the_message_however_long_it_is():
    link = scaling.Link(0.0, 1e9)
    for p in (2, 3, 64, 4096):
        assert scaling.ring(1e9, p, link) == pytest.approx(2 * (p - 1) / p)
    assert scaling.tree(1e9, 64, link) == pytest.approx(2)


def test_the_tree_wins_where_latency_counts_and_the_ring_where_bandwidth_does():
    slow_start, slow_wire = scaling.Link(1e-3, 1e12), scaling.Link(1e-9, 1e6)
    assert scaling.tree(1e3, 64, slow_start) < scaling.ring(1e3, 64, slow_start)
    assert scaling.ring(1e9, 64, slow_wire) < scaling.tree(1e9, 64, slow_wire)


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_efficiency_falls_with_devices_and_the_step_adds_up(net):
    shares = [scaling.efficiency(net, 64, p, GPUS) for p in (1, *COUNTS)]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[-1] < shares[0] <= 1
    step = scaling.step(net, 64, 8, GPUS)
    assert math.isclose(step.seconds, sum(step))


def test_a_starved_step_takes_as_long_as_its_input():
    starved = GPUS._replace(input_rate=1e3)
    assert scaling.step(MLP, 64, 8, starved).seconds == pytest.approx(0.064)


def test_the_fastest_count_is_the_fastest():
    best = scaling.best_count(MLP, 8192, COUNTS, GPUS)
    times = {p: scaling.step(MLP, 8192 // p, p, GPUS).seconds for p in COUNTS}
    assert times[best] == min(times.values())


def test_the_document_has_the_tables_that_the_model_gives():
    text = scaling.DOCUMENT.read_text()
    assert scaling.renew(text) == text
    assert scaling.IMAGE.stat().st_size < 150_000
