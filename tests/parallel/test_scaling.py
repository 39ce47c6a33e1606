"""The host's work on any number of devices, and the model of docs/scaling.md."""

# ruff: noqa: E402

import json
import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "docs")]

import scaling_model as scaling
import scaling_shared as shared
from scaling_model import COUNTS, GPUS, MLP, NETS

from trainer.data.stream import Plan, Superbatches
from trainer.plan.scaling import Link

WEIGHTS = 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10
METRICS = 3 + 2  # loss, accuracy, examples; the bound on the gradients, and the votes to stop


def test_a_step_has_one_all_reduce_on_512_devices(trainer):
    many = ("--nodes=64", "--gpus-per-node=8", "train.global_batch_size=32768")
    done = trainer("plan", *many, "--json", "--device=H100", "+experiment=mlp")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert MLP.weights == WEIGHTS
    size = (WEIGHTS + METRICS) * 4
    assert size == MLP.message
    assert planned["collectives"] == [
        {"kind": "all-reduce", "devices": 512, "count": 1, "bytes": size}
    ]
    assert planned["device_memory"]["weights"] == WEIGHTS * 4
    assert planned["examples_per_device"] == 64
    assert planned["operations"] == MLP.flops(64)
    predicted = scaling.step(MLP, 64, 512, scaling.GPUS)
    assert planned["step_seconds"]["reduce"] == pytest.approx(predicted.reduce)


def test_512_devices_share_the_weights_within_hosts_of_8(trainer):
    shared = ("parallel.shard_state=all", "parallel.mesh.shard=8", "train.global_batch_size=32768")
    many = ("--nodes=64", "--gpus-per-node=8", "--json", "+experiment=mlp")
    done = trainer("plan", *many, *shared)
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    split = (WEIGHTS - 10) * 4  # bytes; the last bias is whole on each device
    assert planned["device_memory"]["weights"] == split / 8 + 40
    assert planned["device_memory"]["optimizer"] == split / 8 + 40 + 4  # and the step
    collectives = [(one["kind"], one["devices"], one["bytes"]) for one in planned["collectives"]]
    assert collectives == [
        ("all-gather", 8, split),
        ("reduce-scatter", 8, split),
        ("all-reduce", 64, split / 8),
        ("all-reduce", 512, (10 + METRICS) * 4),
    ]


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
    link = Link(0.0, 1e9)
    for p in (2, 3, 64, 4096):
        assert scaling.ring(1e9, p, link) == pytest.approx(2 * (p - 1) / p)
    assert scaling.tree(1e9, 64, link) == pytest.approx(2)


def test_the_tree_wins_where_latency_counts_and_the_ring_where_bandwidth_does():
    slow_start, slow_wire = Link(1e-3, 1e12), Link(1e-9, 1e6)
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


SHARED = {setting.name: setting for setting in shared.SETTINGS}


@pytest.mark.parametrize("name", SHARED)
def test_with_one_device_nothing_is_shared_and_nothing_sent(name):
    one = shared.step(shared.BILLION, SHARED[name], 1, 1, GPUS)
    assert one == shared.step(shared.BILLION, shared.NONE, 1, 1, GPUS)
    assert one.reduce == 0
    assert shared.state(shared.BILLION, SHARED[name], 1) == 16 * shared.BILLION.weights


@pytest.mark.parametrize("devices", COUNTS)
def test_what_overlaps_waits_less_and_what_is_shared_needs_less(devices):
    def waits(setting):
        return shared.step(shared.BILLION, setting, 1, devices, GPUS).reduce

    assert waits(shared.LAYERS) < waits(shared.NONE)
    assert waits(shared.ALL) < waits(shared.ALONE)
    sent = [shared.collectives(shared.BILLION, s, devices, GPUS) for s in shared.SETTINGS]
    assert 1.4 < sent[3] / sent[0] < 1.7  # two gathers and a scatter are one and a half all-reduce
    needed = [
        shared.state(shared.BILLION, SHARED[n], devices) for n in ("none", "optimizer", "all")
    ]
    assert needed == sorted(needed, reverse=True)
    assert shared.state(shared.BILLION, shared.ALL, devices) <= shared.state(
        shared.BILLION, shared.HOSTS, devices
    )


def test_the_document_has_the_tables_that_the_model_gives():
    text = scaling.DOCUMENT.read_text()
    assert scaling.renew(text) == text
    for image in (scaling.IMAGE, shared.IMAGE):
        assert image.stat().st_size < 150_000
