"""Process 0's side of the meeting: receives the others, and knows who is missing."""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from typing import Any

from trainer.distributed.deadline import Deadline
from trainer.distributed.topology import Topology
from trainer.job.errors import ConfigError, PeerLost, TrainerError

TICK = 0.2  # seconds between looks at the deadline and at the stop flag
SILENT = 5.0  # seconds without a word, after which a guest has left
LONGEST = 4096  # bytes of a line

Json = dict[str, Any]


def me(topology: Topology) -> str:
    """Describe this process to the others."""
    return f"process {topology.process_id} (host {socket.gethostname()}, pid {os.getpid()})"


class Host:
    """Process 0's side: receives the others."""

    def __init__(self, topology: Topology, listener: socket.socket, deadline: Deadline) -> None:
        self._topology, self._listener, self._deadline = topology, listener, deadline
        self._guests: dict[int, _Guest] = {}
        self._unnamed: set[_Guest] = set()

    def wait(self) -> None:
        """Return when all are there; every one of them is told."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._listener, selectors.EVENT_READ)
                while len(self._guests) < self._topology.num_processes - 1:
                    if self._deadline.over():
                        raise PeerLost(self._missing(), "look at their logs")
                    for key, _ in selector.select(TICK):
                        self._receive(key, selector)
                    self._drop_the_silent(selector)
            for guest in self._guests.values():
                guest.send({"go": True})
        except TrainerError as error:
            for guest in [*self._guests.values(), *self._unnamed]:
                if guest.who:  # the others may belong to another job
                    guest.send({"error": str(error), "code": error.exit_code})
            raise
        finally:
            for guest in [*self._guests.values(), *self._unnamed]:
                guest.connection.close()

    def _receive(self, key: selectors.SelectorKey, selector: selectors.BaseSelector) -> None:
        if key.fileobj is self._listener:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                there = f"with {len(self._guests)} others connected, process 0 can take no more"
                raise ConfigError(f"{there} ({error.strerror})", "raise ulimit -n") from None
            connection.setblocking(False)
            guest = _Guest(connection)
            self._unnamed.add(guest)
            selector.register(connection, selectors.EVENT_READ, guest)
            return
        guest = key.data
        lines = guest.read()
        if lines is None:
            self._drop(guest, selector)
            return
        for line in lines:
            if guest in self._unnamed:
                self._name(guest, line, selector)
            elif guest.rival is not None:
                raise ConfigError(
                    f"{guest.who} and {guest.rival.who} say they are the same process",
                    "give each process its own number",
                )

    def _name(self, guest: _Guest, line: Json, selector: selectors.BaseSelector) -> None:
        """Take a guest's first word: who it is."""
        if line.get("token") != self._topology.attempt:
            guest.send({"error": "other processes meet here", "stranger": True})
            self._drop(guest, selector)
            return
        guest.send({"welcome": True})
        index, count = line.get("process"), line.get("processes")
        guest.who = str(line.get("who"))
        if count != self._topology.num_processes:
            raise ConfigError(
                f"{guest.who} was started as one of {count} processes, process 0 as one of "
                f"{self._topology.num_processes}",
                "tell all the same number",
            )
        if index == 0 or not isinstance(index, int):
            raise ConfigError(
                f"{guest.who} and {me(self._topology)} say they are the same process",
                "give each process its own number",
            )
        older = self._guests.get(index)
        if older is None:
            self._unnamed.discard(guest)
            self._guests[index] = guest
        else:  # it may have died unnoticed, and come again
            older.rival = guest

    def _drop_the_silent(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for guest in [*self._guests.values(), *self._unnamed]:
            if now - guest.heard > SILENT:
                self._drop(guest, selector)

    def _drop(self, guest: _Guest, selector: selectors.BaseSelector) -> None:
        selector.unregister(guest.connection)
        guest.connection.close()
        self._unnamed.discard(guest)
        for index, known in list(self._guests.items()):
            if known is guest:
                del self._guests[index]
                if guest.rival is not None and guest.rival in self._unnamed:
                    self._unnamed.discard(guest.rival)
                    self._guests[index] = guest.rival
            elif known.rival is guest:
                known.rival = None

    def _missing(self) -> str:
        hosts = self._topology.hosts
        count = self._topology.num_processes
        missing = [i for i in range(1, count) if i not in self._guests]
        names = [f"process {i}" + (f" (host {hosts[i]})" if hosts else "") for i in missing[:8]]
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return (
            f"{', '.join(names)}{more} of {count} did not come within "
            f"cluster.startup_timeout_seconds={self._deadline.timeout:g}"
        )


class _Guest:
    """One connection of process 0 to another."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.who = ""  # until it has said that it is of this job
        self.heard = time.monotonic()
        self.rival: _Guest | None = None  # says that it is the same process
        self._unread = b""

    def read(self) -> list[Json] | None:
        """Return what was said since; None when the other side has left or talks nonsense."""
        try:
            data = self.connection.recv(LONGEST)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        if not data or len(self._unread) > LONGEST:
            return None
        self.heard = time.monotonic()
        try:
            told = [json.loads(line) for line in lines]
        except ValueError:
            return None
        return told if all(isinstance(line, dict) for line in told) else None

    def send(self, answer: Json) -> None:
        """Say it, if the other side is still there."""
        try:
            self.connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return
