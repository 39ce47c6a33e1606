"""Which process of how many is this? Read from the options and the environment; touches nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from trainer.config.schema import ClusterConfig
from trainer.distributed import slurm
from trainer.job.errors import ConfigError

OPTIONS = ("coordinator_address", "num_processes", "process_id")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
INDEX = "JOB_COMPLETION_INDEX"  # which Kubernetes sets in the pods of an Indexed Job


class Topology(NamedTuple):
    """The processes of a run, and which one this is."""

    kind: str  # single, explicit, slurm or kubernetes
    num_processes: int
    process_id: int
    host: str | None  # where process 0 is; None for a single process
    ports: tuple[int, ...]  # at which the processes meet: the first that is free there
    evidence: str  # what told us, to be shown
    # What the processes of a run know each other by when they meet. In SLURM no other job, step or
    # attempt has it; elsewhere it is the address to meet at, as each of them was told it.
    attempt: str = ""
    # The same in all attempts of a job that its scheduler starts again, "" where there is none. In
    # Kubernetes a job of the same name and service has it too, in another namespace for example.
    job: str = ""
    hosts: tuple[str, ...] = ()  # of each process, where known
    local_device_ids: tuple[int, ...] | None = None  # the GPUs of this process; None: all it sees
    gpus: int | None = None  # that this process ought to see; None: nothing is expected
    gpus_evidence: str = ""


def resolve(cluster: ClusterConfig, environ: Mapping[str, str]) -> Topology:
    """Tell from the options and the environment which process this is.

    Raises:
        ConfigError: what is given is incomplete or contradicts itself.
    """
    topology = _find(cluster, environ)
    if cluster.coordinator_port is not None and topology.ports:
        topology = topology._replace(ports=(cluster.coordinator_port,))
    if cluster.gpus_per_process is not None:
        told = f"cluster.gpus_per_process={cluster.gpus_per_process}"
        topology = topology._replace(gpus=cluster.gpus_per_process, gpus_evidence=told)
    return topology


def _find(cluster: ClusterConfig, environ: Mapping[str, str]) -> Topology:
    kind = cluster.kind
    options = {f"cluster.{name}": getattr(cluster, name) for name in OPTIONS}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    if kind == "explicit" or (kind == "auto" and given):
        return _explicit(options, "the options cluster.*")
    if given:
        raise ConfigError(
            f"{given[0]}: cluster={kind} has no use for it", "leave it out, or say cluster=explicit"
        )
    if kind == "single":
        return Topology("single", 1, 0, None, (), "cluster=single")
    told = {name: environ.get(name) for name in VARIABLES}
    of_a_pod = environ.get(INDEX) and not told["JAX_PROCESS_ID"]
    if kind == "auto" and any(told.values()) and not of_a_pod:
        return _in_a_step(_explicit(told, "the variables JAX_*"), environ)
    if kind == "kubernetes" or (kind == "auto" and environ.get(INDEX)):
        return _kubernetes(environ)
    step = slurm.read(environ)
    if step is not None:
        return _slurm(step)
    if kind == "slurm":
        raise ConfigError("cluster=slurm: there is no SLURM_JOB_ID here", "start it with srun")
    return Topology("single", 1, 0, None, (), "no cluster variables")


def _explicit(given: Mapping[str, str | int | None], source: str) -> Topology:
    missing = [name for name, value in given.items() if value in (None, "")]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing", f"{source} go together: {', '.join(given)}"
        )
    (address_name, address), (number_name, number), (id_name, process_id) = given.items()
    count, index = _whole(number_name, number), _whole(id_name, process_id)
    if not 0 <= index < count:
        raise ConfigError(f"{id_name}={index}", f"with {number_name}={count} use 0 to {count - 1}")
    host, port = _address(address_name, str(address))
    return Topology("explicit", count, index, host, (port,), source, attempt=f"at {address}")


def _in_a_step(found: Topology, environ: Mapping[str, str]) -> Topology:
    """Give a process that SLURM has started its GPUs; the variables JAX_* say which it is."""
    step = slurm.read(environ) if slurm.STEP in environ else None
    if step is None or step.tasks == 1:
        return found
    if step.tasks != found.num_processes:
        raise ConfigError(
            f"JAX_NUM_PROCESSES={found.num_processes}, but SLURM started {step.tasks} tasks "
            "(SLURM_STEP_NUM_TASKS)",
            "unset the variables JAX_*, or make the two agree",
        )
    return _with_gpus(found, step)


def _kubernetes(environ: Mapping[str, str]) -> Topology:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", INDEX)
    given = {name: environ.get(name) for name in names}
    found = _explicit(given, "in a pod of an Indexed Job the variables")
    # Pod i is NAME-i: with pod 0's name the names of all are known.
    parts = re.fullmatch(r"(.*-)0(\..*)?", found.host or "")
    hosts: tuple[str, ...] = ()
    if parts:
        rest = parts.group(2) or ""
        hosts = tuple(f"{parts.group(1)}{i}{rest}" for i in range(found.num_processes))
    job = f"the Kubernetes job of {found.host}"
    return found._replace(kind="kubernetes", evidence=", ".join(names), job=job, hosts=hosts)


def _slurm(step: slurm.Step) -> Topology:
    told = f"SLURM_JOB_ID={step.job_id}, SLURM_PROCID={step.task} of {step.tasks}"
    host = step.hosts[0] if step.tasks > 1 else None
    found = Topology(
        "slurm" if step.tasks > 1 else "single",
        step.tasks,
        step.task,
        host,
        step.ports() if host else (),
        told,
        attempt=step.attempt,
        job=f"SLURM job {step.job_id}",
        hosts=step.hosts,
    )
    return _with_gpus(found, step)


def _with_gpus(topology: Topology, step: slurm.Step) -> Topology:
    return topology._replace(
        local_device_ids=step.local_device_ids, gpus=step.gpus, gpus_evidence=step.gpus_evidence
    )


def _address(name: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")  # of an IPv6 address
    if not (host and colon and port.isdigit() and 0 < int(port) < 2**16):
        raise ConfigError(f"{name}={address}", "use HOST:PORT of process 0, like node1:8476")
    return host, int(port)


def _whole(name: str, value: str | int | None) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(f"{name}={value}", "use a whole number") from None
