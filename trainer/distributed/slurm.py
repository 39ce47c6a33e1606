"""What SLURM's variables say about this task: its rank, the hosts of all tasks, its GPUs.

Needs the standard library only: scripts/local imports it with whatever Python there is.
"""

import re
import zlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple

from trainer.job.errors import ConfigError

CUDA_VISIBLE = "CUDA_VISIBLE_DEVICES"
STEP = "SLURM_STEP_NODELIST"  # set in the tasks that srun starts, and only there
FIRST_PORT, PORTS, TRIES = 20_000, 10_000, 8  # below the range that Linux gives to clients


class Step(NamedTuple):
    """One task of a job step."""

    job_id: str
    attempt: str  # differs between jobs, between steps, and between restarts of a job
    tasks: int
    task: int
    hosts: tuple[str, ...]  # of each task
    local_device_ids: tuple[int, ...] | None  # None: all GPUs that the task sees
    gpus: int | None  # of this task
    gpus_evidence: str

    def ports(self) -> tuple[int, ...]:
        """Return the ports to meet at, in order: other jobs on the host may use some of them."""
        start = zlib.crc32(self.attempt.encode())
        return tuple(FIRST_PORT + (start + 1009 * i) % PORTS for i in range(TRIES))


def visible_gpus(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; None if it is not set: all are visible.

    CUDA ends the list at the first entry that is not a GPU. So an empty value, -1 and SLURM's
    NoDevFiles all mean none.
    """
    text = environ.get(CUDA_VISIBLE)
    if text is None:
        return None
    names = (name.strip() for name in text.split(","))
    return tuple(takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))


def read(environ: Mapping[str, str]) -> Step | None:
    """Return this task as the environment describes it; None outside of a SLURM job.

    Raises:
        ConfigError: a variable is missing or contradicts another, or `srun` was forgotten.
    """
    job_id = environ.get("SLURM_JOB_ID")
    if not job_id:
        return None
    tasks, task, hosts, tasks_here, local = 1, 0, ["localhost"], 1, 0
    if STEP in environ:
        tasks = _whole(environ, "SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS"))
        task = _whole(environ, "SLURM_PROCID")
        local = _whole(environ, "SLURM_LOCALID")
        nodes = expand(environ[STEP])
        text = environ.get("SLURM_STEP_TASKS_PER_NODE", f"1(x{len(nodes)})")
        counts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)  # "2(x3),1" -> 2, 2, 2, 1
        per_node = [int(count) for count, times in counts for _ in range(int(times or 1))]
        if not 0 <= task < tasks or sum(per_node) != tasks or len(per_node) != len(nodes):
            raise ConfigError(
                f"SLURM_PROCID={task}, SLURM_STEP_NUM_TASKS={tasks}, {STEP}={environ[STEP]} and "
                f"SLURM_STEP_TASKS_PER_NODE={text} contradict each other",
                "start the processes with srun, and do not set these variables",
            )
        hosts = _hosts(environ, nodes, per_node)
        tasks_here = per_node[_whole(environ, "SLURM_NODEID", "0") % len(per_node)]
    else:  # the batch script itself, or a shell of salloc
        in_job = _whole(environ, "SLURM_NTASKS", "1")
        in_nodes = _whole(environ, "SLURM_JOB_NUM_NODES", "1")
        if max(in_job, in_nodes) > 1:
            raise ConfigError(
                f"job {job_id} has {in_nodes} nodes and {max(in_job, in_nodes)} tasks, but this "
                f"process is not one of the tasks (no {STEP})",
                "start it with srun, or use cluster=single for one process alone",
            )
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    attempt = f"slurm-{job_id}.{environ.get('SLURM_STEP_ID', 'batch')}-{restart}"
    return Step(job_id, attempt, tasks, task, tuple(hosts), *_gpus(environ, tasks_here, local))


def expand(nodes: str) -> list[str]:
    """Expand a list of nodes: "n[1-2,05],login" -> n1, n2, n05, login."""
    names = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):  # commas in brackets do not separate
        before, bracket, rest = item.partition("[")
        if not bracket:
            names.append(item)
            continue
        ranges, _, after = rest.partition("]")
        for text in ranges.split(","):
            first, _, last = text.partition("-")
            for number in range(int(first), int(last or first) + 1):
                names += expand(f"{before}{number:0{len(first)}}{after}")
    return names


def _hosts(environ: Mapping[str, str], nodes: Sequence[str], per_node: Sequence[int]) -> list[str]:
    """Return the host of each task: SLURM deals tasks to the nodes in rounds, like cards."""
    most = max(per_node)
    distribution = environ.get("SLURM_DISTRIBUTION", "block")
    per_round = 1 if distribution.startswith("cyclic") else most
    if distribution.startswith("plane"):
        per_round = _whole(environ, "SLURM_DIST_PLANESIZE")
    return [
        node
        for dealt in range(0, most, per_round)
        for node, tasks in zip(nodes, per_node, strict=True)
        for _ in range(min(per_round, tasks - dealt))
    ]


def _gpus(
    environ: Mapping[str, str], tasks_here: int, local: int
) -> tuple[tuple[int, ...] | None, int | None, str]:
    """Return which of the visible GPUs this task uses, how many it expects, and the evidence.

    jax would give one GPU to each task, by SLURM_LOCALID. Here the tasks of a node share all its
    GPUs evenly, whether SLURM shows each task all GPUs of the node or only its own.
    """
    on_node = _whole(environ, "SLURM_GPUS_ON_NODE", "0")
    if not on_node or environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return None, None, ""
    evidence = f"SLURM_GPUS_ON_NODE={on_node} for {tasks_here} tasks a node"
    each, rest = divmod(on_node, tasks_here)
    if rest:
        hint = f"use --ntasks-per-node=1 or {on_node}, or a divisor"
        raise ConfigError(f"{evidence}: they do not divide", hint)
    visible = visible_gpus(environ)
    if tasks_here > 1 and (visible is None or len(visible) == on_node):
        return tuple(range(local * each, (local + 1) * each)), each, evidence
    if visible is not None and len(visible) != each:  # else SLURM has bound this task to its own
        raise ConfigError(
            f"{evidence}, but {CUDA_VISIBLE}={environ[CUDA_VISIBLE]} shows {len(visible)} to this "
            f"task: expected its {each}" + (f", or all {on_node}" if tasks_here > 1 else ""),
            f"leave {CUDA_VISIBLE} to SLURM and ask it for no more GPUs than are used, or train "
            "on the CPU with JAX_PLATFORMS=cpu",
        )
    return None, each, evidence


def _whole(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    try:
        return int(str(text))
    except ValueError:
        hint = "start the processes with srun"
        raise ConfigError(f"{name}={text}: SLURM sets it to a whole number", hint) from None
