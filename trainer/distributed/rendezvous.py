"""All processes of a run meet at process 0 before jax connects them.

When a process does not come, jax aborts the others (SIGABRT) and does not say which it was. So they
first meet here: within one time-out they wait for late processes, for names that do not resolve
yet and for used ports, and the error names whoever is missing.

A client says who it is, in a message that proves that it knows the token of the job (messages.py).
Process 0 welcomes it at once, so that the client knows that no other job or program uses the port.
When all have come, or it is clear that they will not, process 0 answers "go" or the error. Who does
not say in time that it belongs to the job is dropped without a word.
"""

import itertools
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from trainer.distributed.messages import Connection, Message
from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError

TICK = 0.1  # seconds between looks at the clients, between attempts, and between polls
ANSWER = 2.0  # seconds to say who one is, and to be accepted and welcomed
GRACE = 10.0  # seconds that clients wait longer than process 0, which knows who is missing
MOST_UNNAMED = 128  # connections that have not said who they are


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
    clients: list[Connection] = []
    answer = PeerLost("process 0 was asked to stop", "run the same command again").packed()
    try:
        while missing := _find_missing(topology, [c.hello for c in clients if c.hello]):
            if time.monotonic() > end:
                names = ", ".join(missing[:8]) + (" and others" if len(missing) > 8 else "")
                raise PeerLost(
                    f"{names} of {topology.num_processes} did not come within "
                    f"cluster.startup_timeout_seconds={timeout:g}",
                    "look at their logs",
                )
            poll()
            time.sleep(TICK)
            clients = _read_hellos(topology, listener, clients)
        answer = {"kind": "go", "message": "", "hint": ""}
        return ip, listener.getsockname()[1]
    except (PeerLost, ConfigError) as error:
        answer = error.packed()
        raise
    finally:
        listener.close()
        for client in clients:
            with client.socket, suppress(OSError):
                if client.hello:
                    client.send(nonce=client.hello["nonce"], **answer)


def _read_hellos(
    topology: Topology, listener: socket.socket, clients: list[Connection]
) -> list[Connection]:
    """Return the clients, with new ones, who are not dropped.

    Those are dropped who leave, do not say in time that they belong to this run, or come again; and
    the oldest, if too many have not said anything.
    """
    with suppress(OSError):  # nobody waits
        for _ in range(MOST_UNNAMED):
            connection, _address = listener.accept()
            connection.setblocking(False)
            clients.append(Connection(connection, topology.token))
    for client in clients:
        try:
            _read_hello(topology, client)
        except (OSError, ValueError):
            client.socket.close()
    named = {client.hello["nonce"]: client for client in clients if client.hello}  # the newest
    unnamed = [client for client in clients if not client.hello][-MOST_UNNAMED:]
    for client in {*clients} - {*named.values(), *unnamed}:
        client.socket.close()
    return [client for client in clients if client.socket.fileno() >= 0]


def _read_hello(topology: Topology, client: Connection) -> None:
    """Read who a client is, if it has said so, and welcome it.

    Raises:
        OSError: it has left; it may come again.
        ValueError: it is no process of this run, or does not say so in time.
    """
    hello = client.receive("hello")
    late = time.monotonic() > client.since + ANSWER
    if hello is None and (client.hello or not late):
        return
    if hello is None or client.hello or not _fits(hello, topology):
        raise ValueError("it is no process of this run")
    client.hello = hello
    client.send(nonce=hello["nonce"])


def _fits(hello: Message, topology: Topology) -> bool:
    is_rank = int(hello["process"]) < int(hello["processes"])
    return is_rank and hello["attempt"] == topology.attempt


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


def _find_missing(topology: Topology, hellos: Collection[Message]) -> list[str]:
    """Return the names of the processes that have not come.

    Raises:
        ConfigError: two clients claim the same rank, or one expects another number of processes.
    """
    of_rank: dict[int, str] = {}
    for hello in hellos:
        who, rank, count = hello["who"], int(hello["process"]), int(hello["processes"])
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
    nonce = secrets.token_hex(16)
    hello = {
        "attempt": topology.attempt,
        "who": f"process {topology.process_id} (host {socket.gethostname()}, pid {os.getpid()})",
        "process": str(topology.process_id),
        "processes": str(topology.num_processes),
        "nonce": nonce,
    }
    for port in itertools.cycle(topology.ports):
        poll()
        if time.monotonic() > end:
            break
        try:
            ip = resolve(topology.host, topology.hosts)
            with socket.create_connection((ip, port), ANSWER) as connection:
                process_0 = Connection(connection, topology.token)
                process_0.send(**hello)
                _wait_for(process_0, "welcome", nonce, time.monotonic() + ANSWER, poll)
                answer = _wait_for(process_0, "answer", nonce, end, poll)
            if answer["kind"] == "go":
                return ip, port
            raise TrainerError.unpacked(answer)
        except (OSError, ValueError) as error:  # ValueError: it is not process 0 of this job
            reason = f"{topology.host}:{port}: {error}"
        time.sleep(TICK / len(topology.ports))
    raise PeerLost(
        f"process 0 at {topology.host} did not come within "
        f"cluster.startup_timeout_seconds={timeout:g} ({reason})",
        "look at its log; all processes need the same TRAINER_TOKEN, or none",
    )


def _wait_for(
    process_0: Connection, kind: str, nonce: str, end: float, poll: Callable[[], object]
) -> Message:
    """Return the answer of this kind to this process.

    Raises:
        OSError: process 0 has left, or does not answer until `end`.
        ValueError: the answer is not from process 0 of this job, or to another process.
    """
    process_0.socket.settimeout(TICK)
    while time.monotonic() < end:
        poll()
        if (message := process_0.receive(kind)) is not None:
            if message["nonce"] != nonce:
                raise ValueError("it answers another process")
            return message
    raise TimeoutError("it does not answer: other processes are missing, or it is another program")
