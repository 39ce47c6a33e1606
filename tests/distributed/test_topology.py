"""The environments of SLURM, Kubernetes and Kubeflow, as recorded, become the right topology."""

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


def test_nothing_is_one_process():
    topology = resolve(cluster(), {"PATH": "/bin", "HOSTNAME": "laptop"})
    assert (topology.kind, topology.num_processes, topology.process_id) == ("single", 1, 0)


def test_a_process_of_kubeflow_s_jaxjob():
    environ = {
        "COORDINATOR_ADDRESS": "jaxjob-worker-0",
        "COORDINATOR_PORT": "6666",
        "NUM_PROCESSES": "3",
        "PROCESS_ID": "2",
    }
    topology = resolve(cluster(), environ)
    assert (topology.kind, topology.num_processes, topology.process_id) == ("explicit", 3, 2)
    assert (topology.host, topology.ports) == ("jaxjob-worker-0", (6666,))
    for name in ("NUM_PROCESSES", "PROCESS_ID"):  # other programs use such names for themselves
        assert resolve(cluster(), without(environ, name)).kind == "single"


def test_a_task_of_slurm():
    topology = resolve(cluster(), STEP)
    assert (topology.kind, topology.num_processes, topology.process_id) == ("slurm", 2, 1)
    assert topology.host == "n1"
    assert topology.hosts == ("n1", "n2")
    assert "SLURM_JOB_ID=4" in topology.evidence


def test_all_tasks_of_an_attempt_meet_at_the_same_ports_and_no_other_does():
    first = resolve(cluster(), STEP)
    assert resolve(cluster(), {**STEP, "SLURM_PROCID": "0", "SLURM_NODEID": "0"})[4:5] == first[4:5]
    others = [
        {**STEP, "SLURM_JOB_ID": "5"},
        {**STEP, "SLURM_STEP_ID": "1"},
        {**STEP, "SLURM_RESTART_COUNT": "1"},
    ]
    for other in others:
        topology = resolve(cluster(), other)
        assert topology.ports[0] != first.ports[0]
        assert topology.attempt != first.attempt
        assert (topology.job == first.job) == (other["SLURM_JOB_ID"] == "4")
    assert resolve(cluster(coordinator_port=5000), STEP).ports == (5000,)


def test_one_task_a_node_drives_all_gpus_of_it():
    topology = resolve(cluster(), {**STEP, **GPUS})
    assert topology.local_device_ids is None
    assert topology.gpus == 8


def test_tasks_that_see_all_gpus_share_them_out():
    topology = resolve(cluster(), {**ALL_ON_ONE, **GPUS})
    assert (topology.local_device_ids, topology.gpus) == ((3,), 1)
    two = {**ALL_ON_ONE, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4"}
    assert resolve(cluster(), {**two, **GPUS}).local_device_ids == (6, 7)


def test_tasks_whose_gpus_slurm_has_bound_use_what_they_see():
    topology = resolve(cluster(), {**ALL_ON_ONE, **GPUS, "CUDA_VISIBLE_DEVICES": "3"})
    assert (topology.local_device_ids, topology.gpus) == (None, 1)


@pytest.mark.parametrize("shown", ["4,5,6,7", "GPU-a1,GPU-b2,MIG-c3,MIG-d4"])
def test_two_tasks_of_a_node_bound_to_half_of_its_gpus_each(shown):
    two = {**TWO_ON_ONE, **GPUS, "CUDA_VISIBLE_DEVICES": shown}
    topology = resolve(cluster(), two)
    assert (topology.local_device_ids, topology.gpus) == (None, 4)


@pytest.mark.parametrize("shown", ["", "-1", "NoDevFiles", "0", "0,1,2,3,4,5,6,7"])
def test_a_run_on_the_cpu_expects_no_gpu(shown):
    cpu = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": shown}
    for environ in (STEP, TWO_ON_ONE, {**TWO_ON_ONE, "SLURM_GPUS_ON_NODE": "1"}):
        topology = resolve(cluster(), {**GPUS, **environ, **cpu})
        assert (topology.local_device_ids, topology.gpus) == (None, None)
    asked = resolve(cluster(gpus_per_process=4), {"JAX_PLATFORMS": "cpu"})
    assert asked.gpus == 4


def test_a_step_of_one_task_is_one_process():
    alone = {
        **STEP,
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_NODELIST": "n2",
        "SLURM_STEP_TASKS_PER_NODE": "1",
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
    }
    assert resolve(cluster(), alone).num_processes == 1


def test_a_pod_of_an_indexed_job():
    topology = resolve(cluster(), POD)
    assert (topology.kind, topology.num_processes, topology.process_id) == ("kubernetes", 4, 2)
    assert (topology.host, topology.ports) == ("train-0.train", (8476,))
    assert topology.job == resolve(cluster(), {**POD, "JOB_COMPLETION_INDEX": "0"}).job != ""
    assert topology.hosts == tuple(f"train-{i}.train" for i in range(4))


def test_the_variables_that_kubeflow_sets():
    topology = resolve(cluster(), KUBEFLOW)
    assert (topology.kind, topology.num_processes, topology.process_id) == ("explicit", 3, 1)
    assert (topology.host, topology.ports) == ("mnist-worker-0", (6666,))
    assert topology.job == ""  # nothing says that it is restarted


@pytest.mark.parametrize("environ", [POD, KUBEFLOW])
def test_processes_with_another_address_are_of_another_attempt(environ):
    address = {"JAX_COORDINATOR_ADDRESS": "other-0.other:8476"}
    own, other = resolve(cluster(), environ), resolve(cluster(), {**environ, **address})
    assert own.attempt != other.attempt
    assert own.attempt == resolve(cluster(), {**environ, "HOSTNAME": "elsewhere"}).attempt


def test_other_variables_win_over_a_shell_of_salloc():
    given = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 0}
    assert resolve(cluster(**given), BATCH_SCRIPT).kind == "explicit"
    assert resolve(cluster(), {**BATCH_SCRIPT, **KUBEFLOW}).kind == "explicit"
    assert resolve(cluster(), {**BATCH_SCRIPT, **POD}).kind == "kubernetes"
    assert resolve(cluster(kind="kubernetes"), {**BATCH_SCRIPT, **POD}).kind == "kubernetes"


def test_explicit_variables_win_over_a_shell_of_one_task():
    shell = {
        **STEP,
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_STEP_TASKS_PER_NODE": "1",
        "SLURM_PROCID": "0",
    }
    assert resolve(cluster(), {**shell, **KUBEFLOW}).kind == "explicit"


def test_the_options_win_over_the_environment():
    given = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 0}
    topology = resolve(cluster(kind="explicit", **given), {**STEP, **POD})
    assert (topology.kind, topology.num_processes, topology.host) == ("explicit", 2, "a")
    assert resolve(cluster(**given), {**STEP, **POD, **KUBEFLOW}) == topology
    assert resolve(cluster(kind="single"), {**STEP, **POD}).num_processes == 1
