"""A wrong environment or option is refused by its name."""

import pytest
from support.cluster_environments import (
    ALL_ON_ONE,
    BATCH_SCRIPT,
    GPUS,
    KUBEFLOW,
    POD,
    STEP,
    TWO_ON_ONE,
    without,
)
from support.connected import cluster

from trainer.distributed.topology import resolve
from trainer.job.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_processes": 4, "process_id": 1}, "cluster.coordinator_address missing"),
        ({"coordinator_address": "a:1"}, "cluster.num_processes, cluster.process_id missing"),
        (
            {"coordinator_address": "a:1", "num_processes": 4, "process_id": 4},
            "cluster.process_id=4: with cluster.num_processes=4 use 0 to 3",
        ),
        ({"kind": "slurm", "num_processes": 4}, "cluster.num_processes=4: cluster=slurm does not"),
        ({"kind": "single", "process_id": 1}, "cluster.process_id=1: cluster=single does not"),
    ],
)
def test_options_are_checked_and_never_ignored(options, message):
    with pytest.raises(ConfigError) as error:
        resolve(cluster(**options), STEP)
    assert message in str(error.value)


WRONG = [
    (without(KUBEFLOW, "JAX_PROCESS_ID"), "JAX_PROCESS_ID missing"),
    (without(KUBEFLOW, "JAX_NUM_PROCESSES"), "JAX_NUM_PROCESSES missing"),
    (without(KUBEFLOW, "JAX_COORDINATOR_ADDRESS"), "JAX_COORDINATOR_ADDRESS missing"),
    ({**KUBEFLOW, "JAX_PROCESS_ID": "3"}, "JAX_PROCESS_ID=3: with JAX_NUM_PROCESSES=3 use 0 to 2"),
    ({**KUBEFLOW, "JAX_NUM_PROCESSES": "three"}, "JAX_NUM_PROCESSES=three: use a whole number"),
    (
        {**KUBEFLOW, "JAX_COORDINATOR_ADDRESS": "host"},
        "JAX_COORDINATOR_ADDRESS=host: use HOST:PORT",
    ),
    ({**KUBEFLOW, "JAX_COORDINATOR_ADDRESS": "host:8²"}, "host:8²: use HOST:PORT"),
    ({**KUBEFLOW, "JAX_COORDINATOR_ADDRESS": "http://host:80"}, "http://host:80: use HOST:PORT"),
    ({**KUBEFLOW, "JAX_PROCESS_ID": "²"}, "JAX_PROCESS_ID=²: use a whole number"),
    ({**KUBEFLOW, "JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID=-1: use a whole number"),
    (without(POD, "JAX_NUM_PROCESSES"), "JAX_NUM_PROCESSES missing"),
    (without(POD, "JAX_COORDINATOR_ADDRESS"), "JAX_COORDINATOR_ADDRESS missing"),
    ({**POD, "JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX=4"),
    (BATCH_SCRIPT, "start it with srun"),
    ({**BATCH_SCRIPT, "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "2"}, "start it with srun"),
    (without(STEP, "SLURM_PROCID"), "SLURM_PROCID=None"),
    (without(STEP, "SLURM_LOCALID"), "SLURM_LOCALID=None"),
    ({**STEP, "SLURM_STEP_NUM_TASKS": "3"}, "contradict each other"),
    ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "2"}, "SLURM_STEP_TASKS_PER_NODE=2 contradict"),
    ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "two"}, "contradict each other"),
    ({**STEP, "SLURM_STEP_NODELIST": "n1"}, "SLURM_STEP_NODELIST=n1 and"),
    ({**ALL_ON_ONE, **GPUS, "SLURM_GPUS_ON_NODE": "6"}, "do not divide"),
    ({**TWO_ON_ONE, **GPUS, "SLURM_GPUS_ON_NODE": "1"}, "do not divide"),
    *(
        ({**environ, **GPUS, "CUDA_VISIBLE_DEVICES": shown}, f"CUDA_VISIBLE_DEVICES={shown} {rest}")
        for environ, shown, rest in (
            (TWO_ON_ONE, "", "shows 0 to this task: expected its 4: leave CUDA"),
            (TWO_ON_ONE, "-1", "shows 0"),
            (TWO_ON_ONE, "NoDevFiles", "shows 0"),
            (TWO_ON_ONE, "0", "shows 1"),
            (TWO_ON_ONE, "0,1,-1,2,3", "shows 2"),
            (TWO_ON_ONE, "0,1,2,3,4", "shows 5"),
            (STEP, "0,1,2,3", "shows 4 to this task: expected its 8: leave CUDA"),
            (STEP, "", "shows 0"),
            (STEP, "0,1,2,3,4,5,6,7,8", "shows 9"),
        )
    ),
]


@pytest.mark.parametrize(("environ", "message"), WRONG, ids=[output for _, output in WRONG])
def test_a_wrong_environment_is_refused_by_the_name_of_the_variable(environ, message):
    with pytest.raises(ConfigError) as error:
        resolve(cluster(), environ)
    assert message in str(error.value)


@pytest.mark.parametrize("kind", ["slurm", "kubernetes", "explicit"])
def test_a_kind_without_its_variables_is_refused(kind):
    with pytest.raises(ConfigError):
        resolve(cluster(kind=kind), {})
