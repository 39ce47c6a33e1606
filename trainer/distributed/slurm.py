"""What SLURM's variables say of this task: which it is, where the others are, which GPUs it has."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trainer.distributed import gpus
from trainer.job.errors import ConfigError

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
        """Return the ports to meet at, in order: some may be in use by other jobs of the host."""
        start = zlib.crc32(self.attempt.encode())
        return tuple(FIRST_PORT + (start + 1009 * i) % PORTS for i in range(TRIES))


def read(environ: Mapping[str, str]) -> Step | None:
    """Return what the environment says; None when this is not inside a SLURM job.

    Raises:
        ConfigError: a variable is missing or contradicts another, or `srun` was forgotten.
    """
    job_id = environ.get("SLURM_JOB_ID")
    if not job_id:
        return None
    if STEP not in environ:  # the batch script itself, or a shell of salloc
        tasks = _whole(environ, "SLURM_NTASKS", "1")
        nodes = _whole(environ, "SLURM_JOB_NUM_NODES", "1")
        if max(tasks, nodes) > 1:
            raise ConfigError(
                f"job {job_id} has {nodes} nodes and {max(tasks, nodes)} tasks, but this is not "
                f"one of them (no {STEP})",
                "start it with srun, or say cluster=single for one process alone",
            )
        return _task(environ, job_id, 1, 0, ("localhost",), 1, 0)
    tasks = _whole(environ, "SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS"))
    task = _whole(environ, "SLURM_PROCID", None)
    local = _whole(environ, "SLURM_LOCALID", None)
    nodes_of_step = expand(environ[STEP])
    per_node = _per_node(environ, len(nodes_of_step))
    if not 0 <= task < tasks or sum(per_node) != tasks:
        raise ConfigError(
            f"SLURM_PROCID={task}, SLURM_STEP_NUM_TASKS={tasks} and "
            f"SLURM_STEP_TASKS_PER_NODE={environ.get('SLURM_STEP_TASKS_PER_NODE')} contradict each "
            "other",
            "start the processes with srun, and do not set these variables",
        )
    node = _whole(environ, "SLURM_NODEID", "0")
    hosts = _hosts(environ, nodes_of_step, per_node)
    return _task(environ, job_id, tasks, task, hosts, per_node[node % len(per_node)], local)


def expand(nodes: str) -> list[str]:
    """Expand a list of nodes: "n[1-2,05],login" -> n1, n2, n05, login.

    Raises:
        ConfigError: the text is not such a list.
    """
    names: list[str] = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        names += _expand_one(item, nodes)
    if not names:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodes}: not a list of nodes")
    return names


def _expand_one(item: str, whole: str) -> list[str]:
    found = re.match(r"([^\[]*)\[([^\]]*)\](.*)", item)
    if found is None:
        return [item]
    names = []
    for part in found.group(2).split(","):
        first, _, last = part.partition("-")
        last = last or first
        if not (first.isdigit() and last.isdigit()):
            raise ConfigError(f"SLURM_STEP_NODELIST={whole}: {part} is not a range of numbers")
        for number in range(int(first), int(last) + 1):
            names += _expand_one(f"{found.group(1)}{number:0{len(first)}}{found.group(3)}", whole)
    return names


def _per_node(environ: Mapping[str, str], nodes: int) -> list[int]:
    """Expand "2(x3),1" -> 2, 2, 2, 1."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", f"1(x{nodes})")
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE={text}: not a list like 2(x3),1")
        counts += [int(found.group(1))] * int(found.group(2) or 1)
    if len(counts) != nodes:
        raise ConfigError(
            f"SLURM_STEP_TASKS_PER_NODE={text} speaks of {len(counts)} nodes, "
            f"SLURM_STEP_NODELIST of {nodes}",
            "start the processes with srun",
        )
    return counts


def _hosts(
    environ: Mapping[str, str], nodes: Sequence[str], per_node: Sequence[int]
) -> tuple[str, ...]:
    """Return the host of each task: they are dealt out to the nodes like cards, so many a round."""
    most = max(per_node)
    how = environ.get("SLURM_DISTRIBUTION", "block")
    a_round = 1 if how.startswith("cyclic") else most
    if how.startswith("plane"):
        a_round = _whole(environ, "SLURM_DIST_PLANESIZE", None)
    return tuple(
        node
        for dealt in range(0, most, a_round)
        for node, tasks in zip(nodes, per_node, strict=True)
        for _ in range(min(a_round, tasks - dealt))
    )


def _task(
    environ: Mapping[str, str],
    job_id: str,
    tasks: int,
    task: int,
    hosts: tuple[str, ...],
    tasks_here: int,
    local: int,
) -> Step:
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    attempt = f"slurm-{job_id}.{environ.get('SLURM_STEP_ID', 'batch')}-{restart}"
    ids, count, told = _gpus(environ, tasks_here, local)
    return Step(job_id, attempt, tasks, task, hosts, ids, count, told)


def _gpus(
    environ: Mapping[str, str], tasks_here: int, local: int
) -> tuple[tuple[int, ...] | None, int | None, str]:
    """Tell which of the GPUs that this task sees are its own, and how many that makes."""
    on_node = _whole(environ, "SLURM_GPUS_ON_NODE", "0")
    if not on_node or environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return None, None, ""
    told = f"SLURM_GPUS_ON_NODE={on_node} for {tasks_here} tasks a node"
    each, rest = divmod(on_node, tasks_here)
    if rest:
        raise ConfigError(
            f"{told}: they do not divide", f"use --ntasks-per-node=1 or {on_node}, or a divisor"
        )
    shown = gpus.visible(environ)
    if tasks_here > 1 and (shown is None or len(shown) == on_node):
        return tuple(range(local * each, (local + 1) * each)), each, told
    if shown is not None and len(shown) != each:  # else SLURM has bound this task to its own
        raise ConfigError(
            f"{told}, but {gpus.VARIABLE}={environ[gpus.VARIABLE]} shows {len(shown)} to this one: "
            f"expected its {each}" + (f", or all {on_node}" if tasks_here > 1 else ""),
            f"leave {gpus.VARIABLE} to SLURM and ask it for no more GPUs than are used, or train "
            "on the CPU with JAX_PLATFORMS=cpu",
        )
    return None, each, told


def _whole(environ: Mapping[str, str], name: str, default: str | None) -> int:
    text = environ.get(name, default)
    try:
        return int(str(text))
    except ValueError:
        raise ConfigError(
            f"{name}={text}: SLURM sets it to a whole number", "start the processes with srun"
        ) from None
