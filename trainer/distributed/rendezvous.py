"""All processes of a run find each other before jax connects them.

jax ends a process with an abort when a peer does not come, without naming it. So the processes
first meet at process 0: late peers, names that do not resolve yet and used ports are waited for
within one time-out, and whoever does not come is named.

The protocol is lines of JSON. A guest says who it is and keeps saying that it is there; the host
answers at once, so that the guest knows it is not some other program, and again when all have come
or when it is clear that they will not.
"""

from __future__ import annotations

import errno
import json
import resource
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from trainer.distributed.deadline import Deadline
from trainer.distributed.rendezvous_server import LONGEST, SILENT, TICK, Host, Json, me
from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError

BEAT = 1.0  # seconds between a guest's words
SPARE_FILES = 512  # for all that is no connection
ANSWER = 2.0  # seconds until the host's first word


def meet(topology: Topology, timeout: float, stop: Callable[[], bool]) -> tuple[str, int]:
    """Wait until every process is there; return the address to connect jax to.

    Args:
        topology: of this process; of several processes.
        timeout: seconds until those that have not come are given up.
        stop: whether this process was asked to stop.

    Raises:
        PeerLost: somebody did not come in time; says who.
        ConfigError: two processes say they are the same, or do not agree on their number.
        Preempted: asked to stop.
    """
    deadline = Deadline(timeout, stop, "the other processes")
    if topology.process_id == 0:
        _allow_files(topology.num_processes)
        listener, ip = _listen(topology, deadline)
        with listener:
            Host(topology, listener, deadline).wait()
            return ip, listener.getsockname()[1]
    return _visit(topology, deadline)


def _allow_files(connections: int) -> None:
    """Raise the limit of open files as far as the system lets this process, if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _listen(topology: Topology, deadline: Deadline) -> tuple[socket.socket, str]:
    """As process 0: take the first port that is free at the address that the others know."""
    assert topology.host is not None
    while True:
        try:
            ip = _resolve(topology.host)
            if ip.startswith("127.") and any(h != topology.host for h in topology.hosts):
                raise ConfigError(
                    f"{topology.host} is {ip} on {socket.gethostname()} itself, where processes of "
                    "other hosts cannot reach it",
                    "mend the line in /etc/hosts, or the name service",
                )
            return _bind(ip, topology.ports), ip
        except OSError as error:  # a name that is not known is one too
            if deadline.over():
                raise _unheard(topology, error, deadline.timeout) from None
        time.sleep(TICK)


def _bind(ip: str, ports: Sequence[int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    for port in ports[:-1]:
        with suppress(OSError):
            return socket.create_server((ip, port), family=family, backlog=1024)
    return socket.create_server((ip, ports[-1]), family=family, backlog=1024)  # with SO_REUSEADDR


def _unheard(topology: Topology, error: OSError, timeout: float) -> TrainerError:
    """Return why process 0 cannot listen, and what to do about it."""
    if isinstance(error, socket.gaierror):
        return PeerLost(
            f"process 0 does not know its own name {topology.host} ({error.strerror}) after "
            f"cluster.startup_timeout_seconds={timeout:g}",
            "look at the name service (headless service, DNS, /etc/hosts) and run the same command "
            "again",
        )
    told = f"process 0 cannot listen at {topology.host}"
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(
            f"{told}: that is no address of {socket.gethostname()}",
            "start process 0 on the host that its address names, or correct the address",
        )
    return ConfigError(
        f"{told}: port {topology.ports[-1]}: {error.strerror}",
        "choose another port with cluster.coordinator_port, or end the program that has it",
    )


def _resolve(host: str) -> str:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return str(found[0][4][0])


def _visit(topology: Topology, deadline: Deadline) -> tuple[str, int]:
    """As another process: find process 0, and wait for its word."""
    assert topology.host is not None
    reason = "nobody answered"
    while not deadline.over(grace=2 * SILENT):  # process 0 knows better who is missing
        for port in topology.ports:
            try:
                ip = _resolve(topology.host)
                with socket.create_connection((ip, port), timeout=2) as connection:
                    answer = _converse(topology, connection, deadline)
            except (OSError, ValueError) as error:  # ValueError: not JSON
                reason = f"{topology.host}:{port}: {getattr(error, 'strerror', None) or error}"
                continue
            if answer.get("go") is True:
                return ip, port
            if "error" in answer and not answer.get("stranger"):
                given = TrainerError(answer["error"])
                given.exit_code = int(answer.get("code", PeerLost.exit_code))
                raise given
            reason = f"{topology.host}:{port}: {answer.get('error', 'it left again')}"
        time.sleep(TICK)
    raise PeerLost(
        f"process 0 at {topology.host} did not come within "
        f"cluster.startup_timeout_seconds={deadline.timeout:g} ({reason})",
        "look at its log",
    )


def _converse(topology: Topology, connection: socket.socket, deadline: Deadline) -> Json:
    """Say who this is until process 0 answers; return an empty answer when it left."""
    hello = {
        "token": topology.attempt,
        "process": topology.process_id,
        "processes": topology.num_processes,
        "who": me(topology),
    }
    connection.sendall(json.dumps(hello).encode() + b"\n")
    connection.settimeout(TICK)
    began = said = time.monotonic()
    welcome, unread = False, b""
    while not deadline.over(grace=2 * SILENT):
        now = time.monotonic()
        if not welcome and now - began > ANSWER:
            return {"error": "another program has this port", "stranger": True}
        if now - said > BEAT:
            connection.sendall(b"{}\n")
            said = now
        try:
            data = connection.recv(LONGEST)
        except TimeoutError:
            continue
        if not data:
            break
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if answer != {"welcome": True}:
                return answer if isinstance(answer, dict) else {}
            welcome = True
        if len(unread) > LONGEST:
            break
    return {}
