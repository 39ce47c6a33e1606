"""All processes of a run meet at process 0 before jax connects them.

When a process does not come, jax aborts the others (SIGABRT) and does not say which it was. So they
first meet here: within one time-out they wait for late processes, for names that do not resolve
yet and for used ports, and the error names whoever is missing.

Messages are lines of JSON. Process 0 greets each connection with the attempt that it belongs to, so
a client knows at once if another job or program uses the port. The client says who it is. When all
have come, or it is clear that they will not, process 0 answers "go" or the error.
"""

import asyncio
import json
import os
import socket
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError

TICK = 0.1  # seconds between looks at the clients, and between polls
ANSWER = 2.0  # seconds in which process 0 accepts a connection, and then greets
GRACE = 10.0  # seconds that clients wait longer than process 0, which knows who is missing
# Seconds until the kernel closes the connection to a host that is gone, and between its probes: the
# replacement of a process that was there must not be taken for a second one of the same rank.
KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 5}

Json = dict[str, Any]


def meet(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """Wait until all processes are there; return the address to connect jax to.

    Args:
        topology: of this process; of several processes.
        timeout: seconds until the wait for missing processes ends.
        poll: called while waiting; may raise, to end the wait.

    Raises:
        PeerLost: a process did not come in time; names it.
        ConfigError: two processes claim the same rank, or they disagree on their number.
        Exception: whatever poll() raised.
    """

    async def polling() -> tuple[str, int]:
        meeting = _receive if topology.process_id == 0 else _join
        task = asyncio.ensure_future(meeting(topology, timeout))
        while not task.done():
            try:
                poll()
            except BaseException:
                task.cancel()
                await asyncio.wait([task])
                raise
            await asyncio.wait([task], timeout=TICK)
        return task.result()

    return asyncio.run(polling())


async def _receive(topology: Topology, timeout: float) -> tuple[str, int]:
    """As process 0, wait until all others have come; send each of them "go", or the error."""
    end = time.monotonic() + timeout
    listener, ip = await _listen(topology, timeout)
    clients: dict[StreamWriter, Json] = {}  # connection -> who it is, of this run
    answer: Json = _packed(PeerLost("process 0 was asked to stop", "run the same command again"))

    async def receive(reader: StreamReader, writer: StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        try:
            _send(writer, {"attempt": topology.attempt})
            hello = await _read(reader)
            if hello.get("attempt") == topology.attempt:
                clients[writer] = hello
                await reader.read()  # returns when the client has left; it may come again
        except (OSError, ValueError, asyncio.CancelledError):
            pass
        finally:
            clients.pop(writer, None)
            writer.close()

    server = await asyncio.start_server(receive, sock=listener, backlog=1024)
    try:
        while True:
            _check(topology, clients.values())
            if len(clients) == topology.num_processes - 1:
                answer = {"go": True}
                return ip, listener.getsockname()[1]
            if time.monotonic() > end:
                raise PeerLost(_missing(topology, clients.values(), timeout), "look at their logs")
            await asyncio.sleep(TICK)
    except TrainerError as error:
        answer = _packed(error)
        raise
    finally:
        server.close()
        for writer in list(clients):
            _send(writer, answer)
            writer.close()


async def _listen(topology: Topology, timeout: float) -> tuple[socket.socket, str]:
    """Listen at the first free port of the address that the others know."""
    end = time.monotonic() + timeout
    failure: TrainerError
    while True:
        try:
            ip = _resolve(topology)
            if ip.startswith("127.") and any(host != topology.host for host in topology.hosts):
                raise ConfigError(
                    f"{topology.host} is {ip} on {socket.gethostname()} itself, where processes on "
                    "other hosts cannot reach it",
                    "correct the line in /etc/hosts, or the name service",
                )
            return _bind(ip, topology.ports), ip
        except socket.gaierror as error:
            failure = PeerLost(
                f"process 0 does not know its own name {topology.host} ({error.strerror}) after "
                f"cluster.startup_timeout_seconds={timeout:g}",
                "look at the name service (headless service, DNS, /etc/hosts) and run the same "
                "command again",
            )
        except OSError as error:
            failure = ConfigError(
                f"process 0 on {socket.gethostname()} cannot listen at {topology.host}, port "
                f"{topology.ports[-1]}: {os.strerror(error.errno or 0)}",
                "start it on the host that the address names, or choose another port with "
                "cluster.coordinator_port",
            )
        if time.monotonic() > end:
            raise failure
        await asyncio.sleep(TICK)


def _resolve(topology: Topology) -> str:
    """Return the address of process 0, IPv4 if it has both kinds."""
    addresses = socket.getaddrinfo(topology.host, None, type=socket.SOCK_STREAM)
    return str(min(addresses, key=lambda one: one[0] != socket.AF_INET)[4][0])


def _bind(ip: str, ports: Sequence[int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    for port in ports[:-1]:
        with suppress(OSError):
            return socket.create_server((ip, port), family=family, backlog=1024)
    return socket.create_server((ip, ports[-1]), family=family, backlog=1024)


def _check(topology: Topology, clients: Collection[Mapping[str, Any]]) -> None:
    """Check that what the clients say agrees.

    Raises:
        ConfigError: two claim the same rank, or one expects another number of processes.
    """
    of_rank: dict[int, str] = {}
    for client in clients:
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


def _missing(topology: Topology, clients: Collection[Json], timeout: float) -> str:
    count, hosts = topology.num_processes, topology.hosts
    missing = sorted({*range(1, count)} - {client["process"] for client in clients})
    names = [f"process {i}" + (f" (host {hosts[i]})" if hosts else "") for i in missing[:8]]
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return (
        f"{', '.join(names)}{more} of {count} did not come within "
        f"cluster.startup_timeout_seconds={timeout:g}"
    )


async def _join(topology: Topology, timeout: float) -> tuple[str, int]:
    """As another process, find process 0 and wait until it says "go"."""
    reason = "no answer"
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout + GRACE):
            while True:
                for port in topology.ports:
                    try:
                        ip = _resolve(topology)
                        answer = await _handshake(topology, ip, port)
                    except (OSError, ValueError) as error:  # ValueError: not JSON
                        number = getattr(error, "errno", None) or 0  # asyncio words it at length
                        why = os.strerror(number) if number > 0 else str(error) or "no answer"
                        reason = f"{topology.host}:{port}: {why}"
                        continue
                    if "go" in answer:
                        return ip, port
                    raise TrainerError.named(answer["kind"])(answer["message"], answer["hint"])
                await asyncio.sleep(TICK)
    raise PeerLost(
        f"process 0 at {topology.host} did not come within "
        f"cluster.startup_timeout_seconds={timeout:g} ({reason})",
        "look at its log",
    )


async def _handshake(topology: Topology, ip: str, port: int) -> Json:
    """Say who this is; return the answer of process 0, "go" or an error.

    Raises:
        OSError, ValueError: no answer, or none of process 0 of this run.
    """
    index = topology.process_id
    reader, writer = await asyncio.wait_for(asyncio.open_connection(ip, port), ANSWER)
    try:
        try:
            greeting = await asyncio.wait_for(_read(reader), ANSWER)
        except TimeoutError:
            raise ConnectionError("another program uses this port") from None
        if greeting.get("attempt") != topology.attempt:
            raise ConnectionError("another job uses this port")
        who = f"process {index} (host {socket.gethostname()}, pid {os.getpid()})"
        _send(
            writer, greeting | {"who": who, "process": index, "processes": topology.num_processes}
        )
        return await _read(reader)
    finally:
        writer.close()


def _packed(error: TrainerError) -> Json:
    return {"kind": error.name(), "message": error.message, "hint": error.hint}


def _send(writer: StreamWriter, message: Json) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


async def _read(reader: StreamReader) -> Json:
    """Return the next message.

    Raises:
        OSError, ValueError: the other side has left, or is no process of a run.
    """
    line = await reader.readline()
    if not line:
        raise ConnectionError("it closed the connection")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("it is not a process of the trainer")
    return message
