"""Which process of how many is this? Read from the options and the environment, nothing else."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from trainer.config.schema import ClusterConfig
from trainer.distributed import slurm
from trainer.job.errors import ConfigError

OPTIONS = ("coordinator_address", "num_processes", "process_id")
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
JAXJOB = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")  # of Kubeflow's JAXJob
INDEX = "JOB_COMPLETION_INDEX"  # set by Kubernetes in the pods of an Indexed Job


class Topology(NamedTuple):
    """The processes of a run, and which one this is."""

    kind: str  # single, explicit, slurm or kubernetes
    num_processes: int
    process_id: int
    host: str | None  # of process 0; None where nothing names it
    ports: tuple[int, ...]  # where the processes meet: the first of them that is free on the host
    evidence: str  # the options or variables that say so, for messages
    # The same in all processes of a run, and compared when they meet. In SLURM it is unique to a
    # job, step and attempt; elsewhere it is only the address to meet at, as the process got it.
    attempt: str = ""
    # The same in all attempts of a job that its scheduler restarts; "" where nothing restarts it.
    # Not unique in Kubernetes: jobs of the same name in two namespaces have it in common.
    job: str = ""
    hosts: tuple[str, ...] = ()  # of each process, where known
    local_device_ids: tuple[int, ...] | None = None  # GPUs to use; None: all that are visible
    gpus: int | None = None  # expected on this process; None: no expectation
    gpus_evidence: str = ""
    token: str = ""  # a secret of the job, which its processes prove to each other; "": no secret


def resolve(cluster: ClusterConfig, environ: Mapping[str, str]) -> Topology:
    """Find out from the options and the environment which process this is.

    Raises:
        ConfigError: what they say is incomplete or contradicts itself.
    """
    token = cluster.token or environ.get("TRAINER_TOKEN", "")
    topology = _detect(cluster, environ)._replace(token=token)
    if cluster.coordinator_port is not None:
        topology = topology._replace(ports=(cluster.coordinator_port,))
    if cluster.gpus_per_process is not None:
        evidence = f"cluster.gpus_per_process={cluster.gpus_per_process}"
        topology = topology._replace(gpus=cluster.gpus_per_process, gpus_evidence=evidence)
    return topology


def _detect(cluster: ClusterConfig, environ: Mapping[str, str]) -> Topology:
    kind = cluster.kind
    options = {f"cluster.{name}": getattr(cluster, name) for name in OPTIONS}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    if kind == "explicit" or (kind == "auto" and given):
        return _explicit(options, "the options cluster.*")
    if given:
        hint = "leave it out, or use cluster=explicit"
        raise ConfigError(f"{given[0]}: cluster={kind} does not use it", hint)
    if kind == "single":
        return Topology("single", 1, 0, None, (), "cluster=single")
    variables = {name: environ.get(name) for name in VARIABLES}
    is_pod = environ.get(INDEX) and not variables["JAX_PROCESS_ID"]
    if kind == "auto" and any(variables.values()) and not is_pod:
        topology = _explicit(variables, "the variables JAX_*")
        task = slurm.read(environ) if slurm.STEP in environ else None
        if task is None or task["num_processes"] == 1:
            return topology
        # JAX_* only says which process this is: SLURM knows its GPUs.
        gpus = ("local_device_ids", "gpus", "gpus_evidence")
        return topology._replace(**{name: task[name] for name in gpus if name in task})
    if kind == "kubernetes" or (kind == "auto" and environ.get(INDEX)):
        return _kubernetes(environ)
    if (task := slurm.read(environ)) is not None:
        return Topology(**task)
    given_by_jaxjob = {name: environ.get(name) for name in JAXJOB}
    if kind == "auto" and all(given_by_jaxjob.values()):
        address, port = environ["COORDINATOR_ADDRESS"], environ.get("COORDINATOR_PORT")
        given_by_jaxjob["COORDINATOR_ADDRESS"] = f"{address}:{port}" if port else address
        return _explicit(given_by_jaxjob, "the variables of Kubeflow's JAXJob")
    if kind == "slurm":
        raise ConfigError("cluster=slurm: SLURM_JOB_ID is not set", "start it with srun")
    return Topology("single", 1, 0, None, (), "no cluster variables")


def _explicit(given: Mapping[str, str | int | None], source: str) -> Topology:
    missing = [name for name, value in given.items() if value in (None, "")]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing", f"{source} go together: {', '.join(given)}"
        )
    address_name, number_name, id_name = given
    count, index = slurm.whole(given, number_name), slurm.whole(given, id_name)
    if index >= count:
        raise ConfigError(f"{id_name}={index}", f"with {number_name}={count} use 0 to {count - 1}")
    address = str(given[address_name])
    # [...]: an IPv6 address. No URL: waiting for one would end with 75, and be tried for ever.
    match = re.fullmatch(r"\[?([^\s/]+?)\]?:(\d{1,5})", address, re.ASCII)
    if not match or not 0 < int(match[2]) < 2**16:
        hint = "use HOST:PORT of process 0, like node1:8476"
        raise ConfigError(f"{address_name}={address}", hint)
    ports = (int(match[2]),)
    return Topology("explicit", count, index, match[1], ports, source, attempt=f"at {address}")


def _kubernetes(environ: Mapping[str, str]) -> Topology:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", INDEX)
    given = {name: environ.get(name) for name in names}
    topology = _explicit(given, "in a pod of an Indexed Job the variables")
    # Pod i is called NAME-i, so the name of pod 0 gives the names of all.
    name = re.fullmatch(r"(.*-)0(\..*)?", topology.host or "")
    count = topology.num_processes
    return topology._replace(
        kind="kubernetes",
        evidence=", ".join(names),
        job=f"the Kubernetes job of {topology.host}",
        hosts=tuple(f"{name[1]}{i}{name[2] or ''}" for i in range(count)) if name else (),
    )
