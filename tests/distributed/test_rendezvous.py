"""Processes find each other before jax connects them; whoever is missing or wrong is named."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.distributed.rendezvous import meet
from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, Preempted, TrainerError

ROOT = Path(__file__).parents[2]


def free_ports(count):
    """Return different ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port():
    return free_ports(1)[0]


def topology(index, count, *ports, attempt="job", host="127.0.0.1", hosts=()):
    return Topology("explicit", count, index, host, ports, "a test", attempt=attempt, hosts=hosts)


class Guest(threading.Thread):
    """One process's part in a meeting."""

    def __init__(self, topology, timeout=20.0, stop=lambda: False):
        super().__init__(daemon=True)
        self.arguments = topology, timeout, stop
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = meet(*self.arguments)
        except TrainerError as error:
            self.error = error

    def end(self):
        self.join(30)
        assert not self.is_alive()
        return self


def test_all_come_in_any_order_and_late():
    port = free_port()
    early = [Guest(topology(i, 4, port)) for i in (3, 1)]
    time.sleep(0.5)
    others = [Guest(topology(0, 4, port))]
    time.sleep(1.5)
    others.append(Guest(topology(2, 4, port)))
    for guest in early + others:
        assert guest.end().result == ("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        pass  # jax's service can have the port now


def test_whoever_does_not_come_is_named_to_all():
    port = free_port()
    told = [guest.end().error for guest in [Guest(topology(i, 3, port), 1) for i in (0, 1)]]
    assert all(error.exit_code == PeerLost.exit_code for error in told)
    assert all("process 2" in str(error) for error in told)
    assert all("startup_timeout_seconds=1" in str(error) for error in told)


def test_process_0_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr("trainer.distributed.rendezvous.SILENT", 0.2)
    with pytest.raises(PeerLost, match=r"process 0 at 127\.0\.0\.1 did not come.*refused"):
        meet(topology(1, 2, free_port()), 0.5, lambda: False)


def test_two_processes_with_one_number_are_refused():
    port = free_port()
    guests = [Guest(topology(i, 3, port)) for i in (0, 1, 1)]
    for guest in guests:
        error = guest.end().error
        assert error.exit_code == ConfigError.exit_code
        assert str(error).count("process 1 (host") == 2


def test_processes_that_disagree_on_their_number_are_refused():
    port = free_port()
    for guest in [Guest(topology(0, 3, port)), Guest(topology(1, 2, port))]:
        assert "tell all the same number" in str(guest.end().error)


def test_a_process_that_died_while_waiting_can_come_again():
    port = free_port()
    host = Guest(topology(0, 3, port))
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", port)) as dying:
        hello = {"token": "job", "process": 1, "processes": 3, "who": "one that dies"}
        dying.sendall(json.dumps(hello).encode() + b"\n")
        time.sleep(0.3)
    for guest in [Guest(topology(1, 3, port)), Guest(topology(2, 3, port)), host]:
        assert guest.end().result is not None


def test_nonsense_is_dropped():
    port = free_port()
    host = Guest(topology(0, 2, port))
    time.sleep(0.3)
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    strangers[1].sendall(b"\xff" * 10_000)
    strangers[2].sendall(b"[]\n{}\n")
    guest = Guest(topology(1, 2, port))
    assert guest.end().result == host.end().result == ("127.0.0.1", port)
    for stranger in strangers:
        stranger.close()


def test_a_used_port_is_passed_over():
    used, free = free_ports(2)
    with socket.create_server(("127.0.0.1", used)):
        guests = [Guest(topology(i, 2, used, free)) for i in (0, 1)]
        for guest in guests:
            assert guest.end().result == ("127.0.0.1", free)


def test_two_jobs_at_the_same_ports_do_not_mix():
    ports = free_ports(2)
    hosts = [Guest(topology(0, 2, *ports, attempt=job)) for job in ("a", "b")]
    time.sleep(0.5)  # the first to end would leave its port to the other
    guests = [Guest(topology(1, 2, *ports, attempt=job)) for job in ("b", "a")]
    b, a = (guest.end().result for guest in guests)
    assert [host.end().result for host in hosts] == [a, b]
    assert a != b


def test_a_port_that_stays_used_is_named():
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigError, match=rf"port {port}.*cluster\.coordinator_port"),
    ):
        meet(topology(0, 2, port), 0.5, lambda: False)


def test_an_address_of_another_host_is_told():
    with pytest.raises(ConfigError, match=r"at 192\.0\.2\.1: that is no address of .*: start proc"):
        meet(topology(0, 2, free_port(), host="192.0.2.1"), 0.5, lambda: False)


def test_a_name_of_its_own_that_process_0_does_not_know_is_worth_another_try():
    with pytest.raises(PeerLost, match=r"its own name nobody\.invalid .*look at the name service"):
        meet(topology(0, 2, free_port(), host="nobody.invalid"), 0.5, lambda: False)


def test_a_process_that_has_not_said_who_it_is_is_never_told_to_go():
    port = free_port()
    host = Guest(topology(0, 2, port))
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", port)) as silent:
        time.sleep(0.3)
        assert Guest(topology(1, 2, port)).end().result == host.end().result
        assert silent.recv(100) == b""


def test_a_name_that_others_cannot_reach_is_refused():
    with pytest.raises(ConfigError, match="/etc/hosts"):
        meet(
            topology(0, 2, free_port(), host="localhost", hosts=("localhost", "other")),
            5,
            lambda: False,
        )


@pytest.mark.parametrize("index", [0, 1])
def test_a_signal_ends_the_waiting(index):
    stopped = threading.Event()
    guest = Guest(topology(index, 2, free_port()), 60, stopped.is_set)
    time.sleep(0.3)
    stopped.set()
    assert isinstance(guest.end().error, Preempted)


SERVER = """
import resource, sys
sys.path.insert(0, "tests")
from test_rendezvous import Guest, topology
port, limit = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (32, limit))
server = Guest(topology(0, 41, port))
print(server.end().error or server.result[1] == port)
"""


@contextlib.contextmanager
def server_with_few_files(limit):
    """Process 0 of 41 in a process of its own; it may raise its 32 open files to a limit."""
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port), str(limit)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield process, [Guest(topology(index, 41, port)) for index in range(1, 41)]
    process.communicate(timeout=60)


def test_more_processes_come_than_open_files_are_allowed_at_first():
    with server_with_few_files(4096) as (process, guests):
        assert process.stdout.read() == "True\n"
        assert all(guest.end().error is None for guest in guests)


def test_more_processes_than_files_can_be_open_are_told_to_all():
    with server_with_few_files(32) as (process, guests):
        told = "process 0 can take no more (Too many open files): raise ulimit -n"
        assert told in process.stdout.read()
        assert any(told in str(guest.end().error) for guest in guests)
