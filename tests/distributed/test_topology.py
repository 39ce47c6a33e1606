"""From recorded environments to a topology, the wrong ones too."""

import pytest
from support.connected import cluster

from trainer.distributed import slurm
from trainer.distributed.topology import resolve
from trainer.job.errors import ConfigError

# One task of `srun` in a job of two nodes with eight GPUs each, as SLURM 22.05 sets it.
STEP = {
    "SLURM_JOB_ID": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
}
GPUS = {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
ALL_ON_ONE = {
    **STEP,
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_TASKS_PER_NODE": "8",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "3",
}
TWO_ON_ONE = {
    **ALL_ON_ONE,
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
POD = {
    "JOB_COMPLETION_INDEX": "2",
    "JAX_NUM_PROCESSES": "4",
    "JAX_COORDINATOR_ADDRESS": "train-0.train:8476",
    "HOSTNAME": "train-2",
}
KUBEFLOW = {
    "JAX_COORDINATOR_ADDRESS": "mnist-worker-0:6666",
    "JAX_NUM_PROCESSES": "3",
    "JAX_PROCESS_ID": "1",
}


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


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


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
