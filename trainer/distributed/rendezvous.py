"""All processes of a run meet at process 0 before jax connects them.

When a process does not come, jax aborts the others (SIGABRT) and does not say which it was. So they
first meet here: within one time-out they wait for late processes, for names that do not resolve
yet and for used ports, and the error names whoever is missing.

A client says who it is, in a message that proves that it knows the token of the job (messages.py).
Process 0 welcomes it at once, so that the client knows that no other job or program uses the port.
When all have come, or it is clear that they will not, process 0 answers "go" or the error. It drops
without a word whoever does not say in time that it belongs to the job.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Collection

from trainer.distributed.messages import LONGEST, Message, receive, sealed
from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError

TICK = 0.1  # seconds between attempts, and between polls
ANSWER = 2.0  # seconds to say who one is, and to be accepted and welcomed
GRACE = 10.0  # seconds that clients wait longer than process 0, which knows who is missing


def meet(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """Wait up to `timeout` seconds for all processes; return the address to connect jax to.

    `poll` is called while waiting; it may raise Preempted, to end the wait.

    Raises:
        PeerLost: a process did not come in time; names it.
        ConfigError: two processes claim the same rank, they disagree on their number, or process 0
            cannot listen at its address.
        Preempted: as poll() raised it.
    """
    as_this_process = _receive_all if topology.process_id == 0 else _join
    return asyncio.run(as_this_process(topology, timeout, poll))


async def _receive_all(
    topology: Topology, timeout: float, poll: Callable[[], object]
) -> tuple[str, int]:
    """As process 0, wait until all others have come; send each of them "go", or the error."""
    end = time.monotonic() + timeout
    listener, ip = _listen(topology, end, poll)
    port = listener.getsockname()[1]
    clients: dict[asyncio.StreamWriter, Message] = {}  # those that have come -> their hellos

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read who a client is, welcome it, and keep it until it leaves or sends more."""
        try:
            async with asyncio.timeout(ANSWER):
                hello = await receive(reader, "hello", topology.token)
            is_rank = int(hello["process"]) < int(hello["processes"])
            if is_rank and hello["attempt"] == topology.attempt:
                for other in [other for other in clients if clients[other] == hello]:
                    other.close()  # its connection broke unseen, so the client has come again
                    del clients[other]
                clients[writer] = hello
                writer.write(sealed({"nonce": hello["nonce"]}, topology.token))
                await reader.read(1)
        except (OSError, ValueError):
            pass  # it has left, or is no process of this job
        finally:
            clients.pop(writer, None)
            writer.close()

    answer = PeerLost("process 0 was asked to stop", "run the same command again").packed()
    server = await asyncio.start_server(serve, sock=listener, limit=LONGEST, backlog=1024)
    try:
        while missing := _find_missing(topology, clients.values()):
            if time.monotonic() > end:
                names = ", ".join(missing[:8]) + (" and others" if len(missing) > 8 else "")
                raise PeerLost(
                    f"{names} of {topology.num_processes} did not come within "
                    f"cluster.startup_timeout_seconds={timeout:g}",
                    "look at their logs",
                )
            poll()
            await asyncio.sleep(TICK)
        answer = {"kind": "go", "message": "", "hint": ""}
        return ip, port
    except (PeerLost, ConfigError) as error:
        answer = error.packed()
        raise
    finally:
        server.close()
        for writer, hello in clients.items():
            writer.write(sealed({"nonce": hello["nonce"], **answer}, topology.token))


def _listen(
    topology: Topology, end: float, poll: Callable[[], object]
) -> tuple[socket.socket, str]:
    """Listen at the first free port of the address that the others know; try again until `end`."""
    while True:
        for port in topology.ports:
            try:
                ip = _address(topology.host, topology.hosts)
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


def _address(host: str | None, hosts: Collection[str]) -> str:
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


async def _join(topology: Topology, timeout: float, poll: Callable[[], object]) -> tuple[str, int]:
    """As another process, find process 0, say who this is, and wait until it says "go"."""
    end, reason = time.monotonic() + timeout + GRACE, ""

    async def find() -> tuple[str, int]:
        nonlocal reason
        nonce = secrets.token_hex(16)
        while True:
            for port in topology.ports:
                where = f"{topology.host}:{port}"
                reason = f"{where}: no answer: others are missing, or it is another program"
                try:
                    ip = _address(topology.host, topology.hosts)
                    answer = await _ask(topology, ip, port, nonce)
                    if answer["kind"] == "go":
                        return ip, port
                    raise TrainerError.unpacked(answer)
                except TimeoutError:
                    pass
                except ConnectionRefusedError:
                    reason = f"{where}: connection refused"
                except (OSError, ValueError) as error:  # ValueError: it is not process 0 of the job
                    reason = f"{where}: {error}"
                await asyncio.sleep(TICK / len(topology.ports))

    finding = asyncio.create_task(find())
    while not finding.done():
        poll()
        if time.monotonic() > end:
            raise PeerLost(
                f"process 0 at {topology.host} did not come within "
                f"cluster.startup_timeout_seconds={timeout:g} ({reason})",
                "look at its log; all processes need the same TRAINER_TOKEN, or none",
            )
        await asyncio.wait([finding], timeout=TICK)
    return finding.result()


async def _ask(topology: Topology, ip: str, port: int, nonce: str) -> Message:
    """Return the answer of process 0 to this process, once all have come.

    Raises:
        OSError: process 0 does not welcome this process in time, or has left.
        ValueError: whoever listens there is not process 0 of this job.
    """
    hello = {
        "attempt": topology.attempt,
        "who": f"process {topology.process_id} (host {socket.gethostname()}, pid {os.getpid()})",
        "process": str(topology.process_id),
        "processes": str(topology.num_processes),
        "nonce": nonce,
    }
    async with asyncio.timeout(ANSWER) as limit:
        reader, writer = await asyncio.open_connection(ip, port, limit=LONGEST)
        try:
            writer.write(sealed(hello, topology.token))
            for kind in ("welcome", "answer"):
                message = await receive(reader, kind, topology.token)
                if message["nonce"] != nonce:
                    raise ValueError("it answers another process")
                limit.reschedule(None)  # welcomed: process 0 answers when it knows who is missing
        finally:
            writer.close()
    return message
