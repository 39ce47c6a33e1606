"""All processes of a run meet at process 0 before jax connects them.

When a process does not come, jax aborts the others (SIGABRT) and does not say which it was. So they
first meet here: within one time-out they wait for late processes, for names that do not resolve
yet and for used ports, and the error names whoever is missing.

Messages are JSON, each shorter than a packet. Process 0 greets each connection with the attempt
that it belongs to, so a client knows at once if another job or program uses the port. The client
says who it is. When all have come, or it is clear that they will not, process 0 answers "go" or
the error.
"""

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError

TICK = 0.1  # seconds between looks at the clients, between attempts, and between polls
ANSWER = 2.0  # seconds in which process 0 accepts a connection, and then greets
GRACE = 10.0  # seconds that clients wait longer than process 0, which knows who is missing

Json = dict[str, Any]
Clients = dict[socket.socket, Json]  # connection -> who it is; empty: it has not said so


def meet(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """Wait up to `timeout` seconds for all processes; return the address to connect jax to.

    `poll` is called while waiting; it may raise Preempted, to end the wait.

    Raises:
        PeerLost: a process did not come in time; names it.
        ConfigError: two processes claim the same rank, they disagree on their number, or process 0
            cannot listen at its address.
        Preempted: as poll() raised it.
    """
    as_this_process = _receive if topology.process_id == 0 else _join
    return as_this_process(topology, timeout, poll)


def _receive(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """As process 0, wait until all others have come; send each of them "go", or the error."""
    end = time.monotonic() + timeout
    listener, ip = _listen(topology, end, poll)
    clients: Clients = {}
    answer: Json = PeerLost("process 0 was asked to stop", "run the same command again").packed()
    try:
        while missing := _find_missing(topology, clients):
            if time.monotonic() > end:
                names = ", ".join(missing[:8]) + (" and others" if len(missing) > 8 else "")
                raise PeerLost(
                    f"{names} of {topology.num_processes} did not come within "
                    f"cluster.startup_timeout_seconds={timeout:g}",
                    "look at their logs",
                )
            poll()
            time.sleep(TICK)
            _read_hellos(topology, listener, clients)
        answer = {"go": True}
        return ip, listener.getsockname()[1]
    except (PeerLost, ConfigError) as error:
        answer = error.packed()
        raise
    finally:
        listener.close()
        for connection, hello in clients.items():
            with connection, suppress(OSError):
                if hello:
                    connection.send(_encoded(answer))


def _read_hellos(topology: Topology, listener: socket.socket, clients: Clients) -> None:
    """Greet new clients, read who they are, and drop those who leave or talk nonsense."""
    with suppress(OSError):  # nobody waits
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            clients[connection] = {}
            connection.send(_encoded({"attempt": topology.attempt}))
    for connection in list(clients):
        try:
            hello = json.loads(connection.recv(4096))  # b"": it has left, and may come again
            if not isinstance(hello, dict) or hello.get("attempt") != topology.attempt:
                raise ValueError("it is no process of this run")
            clients[connection] = hello
        except BlockingIOError:
            pass  # it has said nothing since
        except (OSError, ValueError):
            del clients[connection]
            connection.close()


def _listen(
    topology: Topology, end: float, poll: Callable[[], object]
) -> tuple[socket.socket, str]:
    """Listen at the first free port of the address that the others know; try again until `end`."""
    while True:
        for port in topology.ports:
            try:
                ip = resolve(topology.host, topology.hosts)
                family = socket.AF_INET6 if ":" in ip else socket.AF_INET
                listener = socket.create_server((ip, port), family=family, backlog=1024)
                listener.setblocking(False)
                return listener, ip
            except OSError as error:
                if port == topology.ports[-1] and time.monotonic() > end:
                    # A name may be known when the job is started again; a port stays wrong.
                    unknown = isinstance(error, socket.gaierror)
                    raise (PeerLost if unknown else ConfigError)(
                        f"process 0 on {socket.gethostname()} cannot listen at {topology.host} "
                        f"({error.strerror})",
                        "look at the name service and /etc/hosts, start process 0 on the host of "
                        "this address, or choose another port with cluster.coordinator_port",
                    ) from None
        poll()
        time.sleep(TICK)


def resolve(host: str | None, hosts: Collection[str]) -> str:
    """Return the address of a host, IPv4 if it has both kinds.

    Raises:
        OSError: its name does not resolve.
        ConfigError: it is an address of this host alone, but the processes are on several hosts.
    """
    addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    ip = str(min(addresses, key=lambda one: one[0] != socket.AF_INET)[4][0])
    if ip.startswith("127.") and len(set(hosts)) > 1:
        raise ConfigError(
            f"{host} is {ip} on {socket.gethostname()}, where other hosts cannot reach it",
            f"give {host} its address in /etc/hosts, or in the name service",
        )
    return ip


def _find_missing(topology: Topology, clients: Clients) -> list[str]:
    """Return the names of the processes that have not come.

    Raises:
        ConfigError: two clients claim the same rank, or one expects another number of processes.
    """
    of_rank: dict[int, str] = {}
    for client in filter(None, clients.values()):
        who, rank, count = client["who"], client["process"], client["processes"]
        if count != topology.num_processes:
            raise ConfigError(
                f"{who} was started as one of {count} processes, process 0 as one of "
                f"{topology.num_processes}",
                "start all with the same number",
            )
        if rank in of_rank:
            message = f"{of_rank[rank]} and {who} claim the same rank"
            raise ConfigError(message, "give each process its own")
        of_rank[rank] = who
    hosts = [f" (host {host})" for host in topology.hosts] or [""] * topology.num_processes
    return [f"process {rank}{host}" for rank, host in enumerate(hosts) if rank not in {0, *of_rank}]


def _join(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """As another process, find process 0, say who this is, and wait until it says "go"."""
    end, reason = time.monotonic() + timeout + GRACE, "no answer"
    index, count = topology.process_id, topology.num_processes
    who = f"process {index} (host {socket.gethostname()}, pid {os.getpid()})"
    greeting = {"attempt": topology.attempt}
    hello = greeting | {"who": who, "process": index, "processes": count}
    for port in itertools.cycle(topology.ports):
        poll()
        if time.monotonic() > end:
            break
        try:
            ip = resolve(topology.host, topology.hosts)
            with socket.create_connection((ip, port), ANSWER) as connection:
                if json.loads(connection.recv(4096)) != greeting:
                    raise ConnectionError("another job or program uses this port")
                connection.send(_encoded(hello))
                answer = _wait_for_answer(connection, end, poll)
            if "go" in answer:
                return ip, port
            raise TrainerError.unpacked(answer)
        except (OSError, ValueError) as error:  # ValueError: it left, or this is not JSON
            reason = f"{topology.host}:{port}: {error}"
        time.sleep(TICK / len(topology.ports))
    raise PeerLost(
        f"process 0 at {topology.host} did not come within "
        f"cluster.startup_timeout_seconds={timeout:g} ({reason})",
        "look at its log",
    )


def _wait_for_answer(connection: socket.socket, end: float, poll: Callable[[], object]) -> Json:
    connection.settimeout(TICK)
    while time.monotonic() < end:
        poll()
        with suppress(TimeoutError):
            return dict(json.loads(connection.recv(4096)))
    raise TimeoutError("it waits for other processes")


def _encoded(message: Json) -> bytes:
    return json.dumps(message).encode()
