"""Processes find each other before jax connects them; the error names who is missing or wrong."""

import contextlib
import socket
import threading
import time

import pytest

from trainer.distributed import messages, rendezvous
from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, Preempted, TrainerError


@pytest.fixture(autouse=True)
def _shorter_waits(monkeypatch):
    monkeypatch.setattr(rendezvous, "TICK", 0.02)
    monkeypatch.setattr(rendezvous, "ANSWER", 0.5)
    monkeypatch.setattr(rendezvous, "GRACE", 2.0)


def free_ports(count):
    """Return different ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port():
    return free_ports(1)[0]


def topology(index, count, *ports, host="127.0.0.1", **more):
    more = {"attempt": "job", **more}
    return Topology("explicit", count, index, host, ports, "a test", **more)


class Process(threading.Thread):
    """One process of a meeting, in a thread."""

    def __init__(self, topology, timeout=60.0, stop=lambda: False):
        super().__init__(daemon=True)

        def poll():
            if stop():
                raise Preempted("asked to stop")

        self.arguments = topology, timeout, poll
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = rendezvous.meet(*self.arguments)
        except TrainerError as error:
            self.error = error

    def end(self):
        self.join(30)
        assert not self.is_alive()
        return self


def wait_for_listener(port):
    """Return a connection to process 0, once it listens."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return socket.create_connection(("127.0.0.1", port))
        time.sleep(0.01)
    raise AssertionError(f"nobody listens at {port}")


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


NONCE = "0123456789abcdef" * 2
HELLO = {"attempt": "job", "who": "w", "process": "1", "processes": "3", "nonce": NONCE}


def hello(token="", **fields):
    return messages.sealed(HELLO | fields, token)


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


# What somebody sends who is no process of this job, to process 0 or in its place.
HOSTILE = {
    "nothing": b"",
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "no text": b"\xff\x00" * 50 + b"\n",
    "nested": b"[" * 4000 + b"\n",
    "JSON": b'{"attempt": "job", "process": true, "error": "all is well", "code": 0}\n',
    "endless": b"a" * 100_000,
    "much, sealed": hello(who="a" * 9000),
    "fields of two lines": hello(who="a\nb"),
    "a terminal's orders": hello(who="\x1b[2J"),
    "no name": hello(who=""),
    "rank 0": hello(process="0"),
    "rank -1": hello(process="-1"),
    "rank true": hello(process="True"),
    "rank 1.0": hello(process="1.0"),
    "rank of other digits": hello(process="\u0661"),
    "rank of 5,000 digits": hello(process="1" * 5000),
    "rank out of range": hello(process="3"),
    "another attempt": hello(attempt="other"),
    "no nonce": hello(nonce=""),
    "a field too many": hello(code="0"),
    "a field too few": messages.sealed({"attempt": "job"}, ""),
    "a seal of another message": hello()[:64] + hello(who="x")[64:],
    "another token": hello(token="guessed"),
    "a welcome": messages.sealed({"nonce": NONCE}, ""),
    "an answer": messages.sealed({"nonce": NONCE, "kind": "go", "message": "", "hint": ""}, ""),
    "a hello twice": hello() * 2,
}


def test_a_message_of_the_job_is_read():
    assert messages.opened(hello()[:-1], "hello", "") == HELLO


@pytest.mark.parametrize("token", ["", "of the job"])
def test_process_0_drops_strangers_without_a_word(token):
    port = free_port()
    processes = [Process(topology(0, 3, port, token=token))]
    strangers = {name: wait_for_listener(port) for name in HOSTILE}
    for name, data in HOSTILE.items():
        with contextlib.suppress(OSError):  # it may be closed already
            strangers[name].sendall(data)
    for name, stranger in strangers.items():
        stranger.settimeout(10)
        heard = b""
        with contextlib.suppress(ConnectionError), stranger:  # reset: it did not read all
            while data := stranger.recv(1000):
                heard += data
        welcomed = name == "a hello twice" and not token
        assert bool(heard) is welcomed, name
    processes += [Process(topology(i, 3, port, token=token)) for i in (1, 2)]
    for process in processes:
        assert process.end().result == ("127.0.0.1", port)


GO = {"kind": "go", "message": "", "hint": ""}
ANSWERS = {  # of somebody who has welcomed the process, as he can where there is no token
    "a code": GO | {"kind": "0"},
    "another error": GO | {"kind": "TrainerError"},
    "a terminal's orders": GO | {"kind": "ConfigError", "message": "\x1b[2J"},
    "a field too many": GO | {"code": "0"},
    "to another process": GO | {"nonce": NONCE},
}


@pytest.mark.parametrize("token", ["", "of the job"])
def test_nobody_else_can_speak_for_process_0(monkeypatch, token):
    """Whatever answers at its address, the others look for it until the end, and exit with 75."""
    monkeypatch.setattr(rendezvous, "GRACE", 0.5)
    answers = {**HOSTILE, "the hello": None, **ANSWERS}
    with contextlib.ExitStack() as stack:
        listeners = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in answers
        }
        processes = {
            name: Process(topology(1, 2, listener.getsockname()[1], token=token), 0.1)
            for name, listener in listeners.items()
        }
        for name, answer in answers.items():
            connection = stack.enter_context(listeners[name].accept()[0])
            received = connection.recv(1000)
            nonce = received[-33:-1].decode()
            if isinstance(answer, dict):
                answer = messages.sealed({"nonce": nonce}, "") + messages.sealed(
                    {"nonce": nonce, **answer}, ""
                )
            with contextlib.suppress(ConnectionError):
                connection.sendall(received if answer is None else answer)
        for name, process in processes.items():
            error = process.end().error
            assert isinstance(error, PeerLost), name
            assert "process 0 at 127.0.0.1 did not come" in str(error)
            assert str(error).isprintable()


def test_processes_with_different_tokens_do_not_meet(monkeypatch):
    monkeypatch.setattr(rendezvous, "GRACE", 0.3)
    port = free_port()
    tokens = ("secret-of-0", "secret-of-1")
    processes = [Process(topology(i, 2, port, token=tokens[i]), 0.3) for i in (0, 1)]
    errors = [str(process.end().error) for process in processes]
    assert "process 1 of 2 did not come" in errors[0]
    assert "same TRAINER_TOKEN" in errors[1]
    assert not any("secret" in error for error in errors)


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


def test_a_process_that_has_not_said_who_it_is_never_gets_an_answer():
    port = free_port()
    first = Process(topology(0, 2, port))
    with wait_for_listener(port) as silent:
        assert Process(topology(1, 2, port)).end().result == first.end().result
        assert silent.recv(100) == b""


def test_a_name_that_others_cannot_reach_is_refused():
    with pytest.raises(ConfigError, match="/etc/hosts"):
        rendezvous.meet(
            topology(0, 2, free_port(), host="localhost", hosts=("localhost", "other")),
            5,
            lambda: False,
        )


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
