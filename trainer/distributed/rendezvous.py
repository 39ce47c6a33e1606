"""All processes of a run meet at process 0 before jax connects them.

When a process does not come, jax aborts the others (SIGABRT) and does not say which it was. So they
first meet here: within one time-out they wait for late processes, for names that do not resolve
yet and for used ports, and the error names whoever is missing.

Messages are lines of JSON. Process 0 greets each connection with the attempt that it belongs to, so
a client knows at once if another job or program uses the port. The client says who it is. When all
have come, or it is clear that they will not, process 0 answers "go" or the error.
"""

import asyncio
import itertools
import json
import os
import socket
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Iterable
from typing import Any

from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError, first_line

TICK = 0.1  # seconds between looks at the clients, between attempts, and between polls
ANSWER = 2.0  # seconds in which process 0 accepts a connection, and then greets
GRACE = 10.0  # seconds that clients wait longer than process 0, which knows who is missing

Json = dict[str, Any]


def meet(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """Wait up to `timeout` seconds for all processes; return the address to connect jax to.

    `poll` is called while waiting; it may raise, to end the wait.

    Raises:
        PeerLost: a process did not come in time; names it.
        ConfigError: two processes claim the same rank, they disagree on their number, or process 0
            cannot listen at its address.
        Exception: whatever poll() raised.
    """

    async def polling() -> tuple[str, int]:
        meeting = _receive if topology.process_id == 0 else _join
        task = asyncio.ensure_future(meeting(topology, timeout))
        try:
            while not task.done():
                poll()
                await asyncio.wait([task], timeout=TICK)
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])  # process 0 tells the others

    return asyncio.run(polling())


async def _receive(topology: Topology, timeout: float) -> tuple[str, int]:
    """As process 0, wait until all others have come; send each of them "go", or the error."""
    end = time.monotonic() + timeout
    listener, ip = await _listen(topology, end)
    clients: dict[StreamWriter, Json] = {}  # connection -> who it is, of this run
    answer: Json = _packed(PeerLost("process 0 was asked to stop", "run the same command again"))

    async def receive(reader: StreamReader, writer: StreamWriter) -> None:
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
        while missing := _find_missing(topology, clients.values()):
            if time.monotonic() > end:
                raise PeerLost(
                    f"{_names(topology, missing)} of {topology.num_processes} did not come within "
                    f"cluster.startup_timeout_seconds={timeout:g}",
                    "look at their logs",
                )
            await asyncio.sleep(TICK)
        answer = {"go": True}
        return ip, listener.getsockname()[1]
    except TrainerError as error:
        answer = _packed(error)
        raise
    finally:
        server.close()
        for writer in list(clients):
            _send(writer, answer)
            writer.close()


async def _listen(topology: Topology, end: float) -> tuple[socket.socket, str]:
    """Listen at the first free port of the address that the others know; try again until `end`."""
    while True:
        for port in topology.ports:
            try:
                ip = _resolve(topology)
                if ip.startswith("127.") and len(set(topology.hosts)) > 1:
                    raise ConfigError(
                        f"{topology.host} is {ip} on {socket.gethostname()} itself, where "
                        "processes on other hosts cannot reach it",
                        "correct the line in /etc/hosts, or the name service",
                    )
                family = socket.AF_INET6 if ":" in ip else socket.AF_INET
                return socket.create_server((ip, port), family=family, backlog=1024), ip
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
        await asyncio.sleep(TICK)


def _resolve(topology: Topology) -> str:
    """Return the address of process 0, IPv4 if it has both kinds."""
    addresses = socket.getaddrinfo(topology.host, None, type=socket.SOCK_STREAM)
    return str(min(addresses, key=lambda one: one[0] != socket.AF_INET)[4][0])


def _find_missing(topology: Topology, clients: Iterable[Json]) -> list[int]:
    """Return the ranks that have not come.

    Raises:
        ConfigError: two clients claim the same rank, or one expects another number of processes.
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
    return [rank for rank in range(1, topology.num_processes) if rank not in of_rank]


def _names(topology: Topology, ranks: list[int]) -> str:
    hosts = topology.hosts
    names = [f"process {i}" + (f" (host {hosts[i]})" if hosts else "") for i in ranks[:8]]
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return ", ".join(names) + more


async def _join(topology: Topology, timeout: float) -> tuple[str, int]:
    """As another process, find process 0 and wait until it says "go"."""
    reason = "no answer"
    try:
        async with asyncio.timeout(timeout + GRACE):
            for port in itertools.cycle(topology.ports):
                try:
                    ip = _resolve(topology)
                    answer = await _handshake(topology, ip, port)
                    break
                except (OSError, ValueError) as error:
                    reason = f"{topology.host}:{port}: {first_line(error, kind=True)}"
                await asyncio.sleep(TICK / len(topology.ports))
    except TimeoutError:
        raise PeerLost(
            f"process 0 at {topology.host} did not come within "
            f"cluster.startup_timeout_seconds={timeout:g} ({reason})",
            "look at its log",
        ) from None
    if "go" in answer:
        return ip, port
    raise TrainerError.named(answer["kind"])(answer["message"], answer["hint"])


async def _handshake(topology: Topology, ip: str, port: int) -> Json:
    """Say who this is; return the answer of process 0, "go" or an error.

    Raises:
        OSError, ValueError: no answer, or none of process 0 of this run.
    """
    async with asyncio.timeout(ANSWER):
        reader, writer = await asyncio.open_connection(ip, port)
    try:
        async with asyncio.timeout(ANSWER):
            greeting = await _read(reader)
        if greeting != {"attempt": topology.attempt}:
            raise ConnectionError("another job uses this port")
        index = topology.process_id
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
    """Return the next message; OSError or ValueError if there is none."""
    message = json.loads(await reader.readline() or "null")
    if not isinstance(message, dict):
        raise ValueError("it closed the connection, or is no process of a run")
    return message
