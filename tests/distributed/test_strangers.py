"""Whoever is no process of this job gets no answer, and cannot speak for one."""

import contextlib
import socket

import pytest
from support.meetings import HELLO, NONCE, Process, free_port, hello, topology, wait_for_listener

from trainer.distributed import messages, rendezvous
from trainer.job.errors import PeerLost

pytestmark = pytest.mark.usefixtures("shorter_waits")

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


def test_a_process_that_has_not_said_who_it_is_never_gets_an_answer():
    port = free_port()
    first = Process(topology(0, 2, port))
    with wait_for_listener(port) as silent:
        assert Process(topology(1, 2, port)).end().result == first.end().result
        assert silent.recv(100) == b""
