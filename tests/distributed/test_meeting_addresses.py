"""Process 0 listens at an address that others reach, and at a port that nobody has."""

import socket
import threading
import time

import pytest
from support.meetings import Process, free_port, free_ports, topology, wait_for_listener

from trainer.distributed import rendezvous
from trainer.job.errors import ConfigError, PeerLost

pytestmark = pytest.mark.usefixtures("shorter_waits")


def test_a_used_port_is_passed_over():
    used, free = free_ports(2)
    with socket.create_server(("127.0.0.1", used)):
        for process in [Process(topology(i, 2, used, free)) for i in (0, 1)]:
            assert process.end().result == ("127.0.0.1", free)


def test_two_jobs_at_the_same_ports_do_not_mix():
    ports = free_ports(2)
    firsts = [Process(topology(0, 2, *ports, attempt=job)) for job in ("a", "b")]
    for port in ports:  # the first to end would leave its port to the other
        wait_for_listener(port).close()
    b, a = (Process(topology(1, 2, *ports, attempt=job)).end().result for job in ("b", "a"))
    assert [first.end().result for first in firsts] == [a, b]
    assert a != b


def test_a_port_that_stays_used_is_named():
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ConfigError, match=rf"{port}.*cluster\.coordinator_port"),
    ):
        rendezvous.meet(topology(0, 2, port), 0.1, lambda: False)


def test_an_address_of_another_host_is_refused():
    with pytest.raises(ConfigError, match=r"at 192\.0\.2\.1 \(Cannot assign .*start process 0 on"):
        rendezvous.meet(topology(0, 2, free_port(), host="192.0.2.1"), 0.1, lambda: False)


def test_a_name_that_does_not_resolve_for_process_0_is_worth_another_try():
    with pytest.raises(PeerLost, match=r"listen at nobody\.invalid .*look at the name service"):
        rendezvous.meet(topology(0, 2, free_port(), host="nobody.invalid"), 0.1, lambda: False)


@pytest.mark.parametrize("index", [0, 1])
def test_a_name_that_is_known_late_is_waited_for(monkeypatch, index):
    known = threading.Event()

    def getaddrinfo(host, *arguments, real=socket.getaddrinfo, **options):
        if host == "late" and not known.is_set():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real("127.0.0.1" if host == "late" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = free_port()
    hosts = ["127.0.0.1", "127.0.0.1"]
    hosts[index] = "late"
    processes = [Process(topology(i, 2, port, host=hosts[i])) for i in (0, 1)]
    time.sleep(0.2)
    assert all(process.is_alive() for process in processes)
    known.set()
    for process in processes:
        assert process.end().result == ("127.0.0.1", port)


def test_a_name_that_others_cannot_reach_is_refused():
    with pytest.raises(ConfigError, match="/etc/hosts"):
        rendezvous.meet(
            topology(0, 2, free_port(), host="localhost", hosts=("localhost", "other")),
            5,
            lambda: False,
        )
