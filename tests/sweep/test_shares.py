"""What each of several trials gets of the GPUs, the simulated devices and the cores."""

import pytest

from trainer.job.errors import ConfigError
from trainer.sweep.shares import WHOLE, Machine, divide
from trainer.sweep.width import Width

FLAG = "--xla_force_host_platform_device_count"
CORES = (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("machine", "count", "environ", "name", "values", "cores"),
    [
        (
            Machine(("4", "5", "6", "7"), 1, CORES),  # as SLURM shows them to its one task
            2,
            {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "1"},
            "CUDA_VISIBLE_DEVICES",
            ["4,5", "6,7"],
            [(0, 1, 2), (3, 4, 5)],
        ),
        (
            Machine((), 8, (0, 1)),
            4,
            {"JAX_NUM_CPU_DEVICES": "8", "XLA_FLAGS": f"{FLAG}=8"},
            "JAX_NUM_CPU_DEVICES",
            ["2"] * 4,
            [(0,), (0,), (1,), (1,)],
        ),
        (Machine((), 1, CORES), 3, {}, "", [None] * 3, [(0, 1), (2, 3), (4, 5)]),
        (Machine((), 1, CORES), 4, {}, "", [None] * 4, [(0,), (1, 2), (3,), (4, 5)]),
    ],
)
def test_each_trial_gets_a_share_of_its_own(machine, count, environ, name, values, cores):
    shares = divide(machine, count, {**environ, "HOME": "/home"})
    assert [share.environ.get(name) for share in shares] == values
    assert [share.cores for share in shares] == cores
    assert [share.gpus for share in shares] == [len(machine.gpus) // count] * count
    assert {n for share in shares for n in share.environ} == {"HOME", name} - {""}


def test_a_single_trial_at_a_time_gets_all_as_it_is():
    assert divide(Machine(("0", "1"), 1, CORES), 1, {"SLURM_JOB_ID": "1"}) == [WHOLE]


def test_a_trial_that_asks_for_more_devices_than_it_gets_is_refused():
    environ = {"JAX_NUM_CPU_DEVICES": "8", "CUDA_VISIBLE_DEVICES": ""}
    assert len(Width(4, 2, environ, print).shares) == 4
    with pytest.raises(ConfigError, match="a trial gets 2 of 8 simulated devices"):
        Width(4, 4, environ, print)
