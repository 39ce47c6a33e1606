"""What SLURM's variables say about this task: its rank, the hosts of all tasks, its GPUs."""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.distributed.gpus import CUDA_VISIBLE, visible
from trainer.job.errors import ConfigError

STEP = "SLURM_STEP_NODELIST"  # set in the tasks that srun starts, and only there
FIRST_PORT, PORTS, TRIES = 20_000, 10_000, 8  # below the range that Linux gives to clients


def read(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the fields of this task's Topology; None outside of a SLURM job.

    Raises:
        ConfigError: a variable is missing or contradicts another, or `srun` was forgotten.
    """
    job_id = environ.get("SLURM_JOB_ID")
    if not job_id:
        return None
    tasks, task, hosts, tasks_here, local = 1, 0, ["localhost"], 1, 0
    if STEP in environ:
        tasks = whole(environ, "SLURM_STEP_NUM_TASKS")
        task = whole(environ, "SLURM_PROCID")
        nodes = expand(environ[STEP])
        text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)  # "2(x3),1" -> 2, 2, 2, 1
        per_node = [int(count) for count, times in counts for _ in range(int(times or 1))]
        if task >= tasks or sum(per_node) != tasks or len(per_node) != len(nodes):
            raise ConfigError(
                f"SLURM_PROCID={task}, SLURM_STEP_NUM_TASKS={tasks}, {STEP}={environ[STEP]} and "
                f"SLURM_STEP_TASKS_PER_NODE={text} contradict each other",
                "start the processes with srun, and do not set these variables",
            )
        hosts = _hosts(environ, nodes, per_node)
        tasks_here = per_node[whole(environ, "SLURM_NODEID", "0") % len(per_node)]
        local = whole(environ, "SLURM_LOCALID")
    else:  # the batch script itself, or a shell of salloc
        in_job = whole(environ, "SLURM_NTASKS", "1")
        in_nodes = whole(environ, "SLURM_JOB_NUM_NODES", "1")
        if max(in_job, in_nodes) > 1:
            raise ConfigError(
                f"job {job_id} has {in_nodes} nodes and {max(in_job, in_nodes)} tasks, but this "
                f"process is not one of the tasks (no {STEP})",
                "start it with srun, or use cluster=single for one process alone",
            )
    # Differs between jobs, between steps, and between restarts of a job.
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    attempt = f"slurm-{job_id}.{environ.get('SLURM_STEP_ID', 'batch')}-{restart}"
    # All tasks have to compute the same ports, and hash() differs between processes. Several, and
    # far apart, because other programs on the host may use some.
    start = zlib.crc32(attempt.encode())
    return _gpus(environ, tasks_here, local) | {
        "kind": "slurm" if tasks > 1 else "single",
        "num_processes": tasks,
        "process_id": task,
        "host": hosts[0],
        "ports": tuple(FIRST_PORT + (start + 1009 * i) % PORTS for i in range(TRIES)),
        "evidence": f"SLURM_JOB_ID={job_id}, SLURM_PROCID={task} of {tasks}",
        "attempt": attempt,
        "job": f"SLURM job {job_id}",
        "hosts": tuple(hosts),
    }


def expand(nodes: str) -> list[str]:
    """Expand a list of nodes: "n[1-2,05],login" -> n1, n2, n05, login.

    Raises:
        ConfigError: it cannot be read.
    """
    names = []
    for item in re.split(r",(?![^\[]*\])", nodes):  # commas in brackets do not separate
        before, bracket, rest = item.partition("[")
        if not bracket:
            names.append(item)
            continue
        ranges, _, after = rest.partition("]")
        for text in ranges.split(","):
            limits = re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII)
            if not limits or "]" not in rest:
                raise ConfigError(f"{STEP}={nodes}", "use a list of nodes such as n[1-2,05],login")
            first, last = limits[1], limits[2] or limits[1]
            for number in range(int(first), int(last) + 1):
                names += expand(f"{before}{number:0{len(first)}}{after}")
    return names


def _hosts(environ: Mapping[str, str], nodes: Sequence[str], per_node: Sequence[int]) -> list[str]:
    """Return the host of each task.

    SLURM gives tasks to the nodes in rounds. In each, every node that has room gets up to
    `per_round` tasks: one if cyclic, a plane, or (block) all that it will have.
    """
    most = max(per_node)
    distribution = environ.get("SLURM_DISTRIBUTION", "block")
    per_round = 1 if distribution.startswith("cyclic") else most
    if distribution.startswith("plane"):
        per_round = whole(environ, "SLURM_DIST_PLANESIZE")
    return [
        node
        for given in range(0, most, per_round)
        for node, tasks in zip(nodes, per_node, strict=True)
        for _ in range(min(per_round, tasks - given))
    ]


def _gpus(environ: Mapping[str, str], tasks_here: int, local: int) -> dict[str, Any]:
    """Return the fields of the Topology that say which GPUs this task uses; {} without GPUs.

    jax would give one GPU to each task, by SLURM_LOCALID. Here the tasks of a node share all its
    GPUs evenly, whether SLURM shows each task all GPUs of the node or only its own.
    """
    on_node = whole(environ, "SLURM_GPUS_ON_NODE", "0")
    if not on_node or environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return {}
    evidence = f"SLURM_GPUS_ON_NODE={on_node} for {tasks_here} tasks a node"
    each, rest = divmod(on_node, tasks_here)
    if rest:
        hint = f"use --ntasks-per-node=1 or {on_node}, or a divisor"
        raise ConfigError(f"{evidence}: they do not divide", hint)
    shown, own = visible(environ), None
    if shown is None or len(shown) == on_node:
        if tasks_here > 1:
            own = tuple(range(local * each, (local + 1) * each))
    elif len(shown) != each:  # else SLURM has bound this task to its own
        raise ConfigError(
            f"{evidence}, but {CUDA_VISIBLE}={environ[CUDA_VISIBLE]} shows {len(shown)} to this "
            f"task: expected its {each}",
            f"leave {CUDA_VISIBLE} to SLURM and ask it for no more GPUs than are used, or train "
            "on the CPU with JAX_PLATFORMS=cpu",
        )
    return {"local_device_ids": own, "gpus": each, "gpus_evidence": evidence}


def whole(given: Mapping[str, object], name: str, default: str | None = None) -> int:
    """Return the option or variable of this name as a whole number, 0 or more.

    Raises:
        ConfigError: it is not a whole number, or is missing.
    """
    text = str(given.get(name, default))
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{name}={text}", "use a whole number")
    return int(text)
