"""SLURM's lists of nodes are read, and tell the host of each task."""

import pytest
from support.cluster_environments import STEP
from support.connected import cluster

from trainer.distributed import slurm
from trainer.distributed.topology import resolve
from trainer.job.errors import ConfigError


@pytest.mark.parametrize(
    ("how", "hosts"),
    [
        ({}, "a a a b c c"),
        ({"SLURM_DISTRIBUTION": "block"}, "a a a b c c"),
        ({"SLURM_DISTRIBUTION": "cyclic"}, "a b c a c a"),
        ({"SLURM_DISTRIBUTION": "cyclic:block"}, "a b c a c a"),
        ({"SLURM_DISTRIBUTION": "plane", "SLURM_DIST_PLANESIZE": "2"}, "a a b c c a"),
    ],
)
def test_the_host_of_each_task_is_known_for_every_distribution(how, hosts):
    step = {
        **STEP,
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_NODELIST": "a,b,c",
        "SLURM_STEP_TASKS_PER_NODE": "3,1,2",
    }
    assert resolve(cluster(), {**step, **how}).hosts == tuple(hosts.split())


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n1", ["n1"]),
        ("n1,login", ["n1", "login"]),
        ("n[1-2,05],login", ["n1", "n2", "n05", "login"]),
        ("gpu[008-011]-ib", ["gpu008-ib", "gpu009-ib", "gpu010-ib", "gpu011-ib"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_lists_of_nodes(text, nodes):
    assert slurm.expand(text) == nodes


@pytest.mark.parametrize("text", ["n[1-", "n[a-b]", "n[1-2", "n[]", "n[²]", "n[1-2-3]"])
def test_lists_that_cannot_be_read_are_refused(text):
    with pytest.raises(ConfigError, match=r"use a list of nodes such as n\[1-2,05\],login"):
        slurm.expand(text)
