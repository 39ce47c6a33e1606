"""Processes that meet, in threads, and free ports for them."""

import contextlib
import socket
import threading
import time

from trainer.distributed import messages, rendezvous
from trainer.distributed.topology import Topology
from trainer.job.errors import Preempted, TrainerError


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


NONCE = "0123456789abcdef" * 2
HELLO = {"attempt": "job", "who": "w", "process": "1", "processes": "3", "nonce": NONCE}


def hello(token="", **fields):
    return messages.sealed(HELLO | fields, token)
