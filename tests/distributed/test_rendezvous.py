"""Processes find each other before jax connects them; the error names who is missing or wrong."""

import socket
import threading
import time

import pytest
from support.meetings import Process, free_port, hello, topology, wait_for_listener

from trainer.distributed import messages, rendezvous
from trainer.job.errors import ConfigError, PeerLost, Preempted

pytestmark = pytest.mark.usefixtures("shorter_waits")


def test_all_come_in_any_order_and_late():
    port = free_port()
    processes = [Process(topology(i, 4, port)) for i in (3, 1)]
    time.sleep(0.1)
    processes.append(Process(topology(0, 4, port)))
    wait_for_listener(port).close()
    time.sleep(0.2)
    assert all(process.is_alive() for process in processes)
    processes.append(Process(topology(2, 4, port)))
    for process in processes:
        assert process.end().result == ("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)):
        pass  # jax's service can have the port now


def test_whoever_does_not_come_is_named_to_all():
    port = free_port()
    processes = [Process(topology(i, 3, port), 0.5) for i in (0, 1)]
    errors = [process.end().error for process in processes]
    assert all(isinstance(error, PeerLost) for error in errors)
    assert all("process 2 of 3 did not come" in str(error) for error in errors)
    assert all("startup_timeout_seconds=0.5" in str(error) for error in errors)


def test_process_0_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(rendezvous, "GRACE", 0.1)
    with pytest.raises(PeerLost, match=r"process 0 at 127\.0\.0\.1 did not come.*refused"):
        rendezvous.meet(topology(1, 2, free_port()), 0.2, lambda: False)


def test_two_processes_of_one_rank_are_refused():
    port = free_port()
    processes = [Process(topology(i, 4, port)) for i in (0, 1, 2)]
    time.sleep(1)  # all have connected: one that comes after the error would not hear of it
    processes.append(Process(topology(1, 4, port)))
    for process in processes:
        error = process.end().error
        assert isinstance(error, ConfigError)
        assert str(error).count("process 1 (host") == 2


def test_processes_that_disagree_on_their_number_are_refused():
    port = free_port()
    for process in [Process(topology(0, 3, port)), Process(topology(1, 2, port))]:
        error = process.end().error
        assert isinstance(error, ConfigError)
        assert "was started as one of 2 processes, process 0 as one of 3" in str(error)


@pytest.mark.parametrize("who", ["one that dies", "one whose connection breaks unseen"])
def test_a_process_can_come_again(who):
    port = free_port()
    first = Process(topology(0, 3, port))
    with wait_for_listener(port) as lost:
        lost.sendall(hello(who=who))
        assert lost.recv(1000)
        if who == "one that dies":
            lost.close()
            time.sleep(0.1)
            third = Process(topology(2, 3, port))
            assert Process(topology(1, 3, port)).end().result == third.end().result
        else:
            again = wait_for_listener(port)
            again.sendall(hello(who=who))
            assert again.recv(1000)
            assert lost.recv(1000) == b""
            assert Process(topology(2, 3, port)).end().result is not None
            assert messages.opened(again.recv(1000)[:-1], "answer", "")["kind"] == "go"
            again.close()
    assert first.end().result is not None


@pytest.mark.parametrize("index", [0, 1])
def test_a_signal_ends_the_wait(index):
    stopped = threading.Event()
    process = Process(topology(index, 2, free_port()), 60, stopped.is_set)
    time.sleep(0.1)
    stopped.set()
    process.join(2)
    assert isinstance(process.error, Preempted)


def test_process_0_that_is_asked_to_stop_tells_those_that_have_come():
    port, stopped = free_port(), threading.Event()
    processes = [
        Process(topology(i, 3, port), 60, stop)
        for i, stop in ((0, stopped.is_set), (1, lambda: False))
    ]
    time.sleep(0.3)
    stopped.set()
    first, second = (process.end().error for process in processes)
    assert isinstance(first, Preempted)
    assert isinstance(second, PeerLost)
    assert "process 0 was asked to stop" in str(second)
