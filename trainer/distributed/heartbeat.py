"""The other processes of a run: noticing that one is lost, and which.

Each process counts up a number in jax's coordination service. Process 0 watches all the others,
the others watch process 0 and what it announces, so the work does not grow with the square of the
processes.

The service lives in process 0. When that is killed, jax aborts the others within a tenth of a
second, from a thread in C++ that takes no callback; so the abort itself is answered here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the service has no public door; orbax uses this one too

INTERVAL = 1.0  # seconds between beats
BEAT, WHO, LOST = "trainer/beat/", "trainer/who/", "trainer/lost"


class Peers:
    """Watches the other processes in a thread of its own; a context manager.

    A single process has nobody to watch.
    """

    def __init__(self, timeout_seconds: float, on_lost: Callable[[str], None]) -> None:
        """Describe the watch; it begins with the block.

        Args:
            timeout_seconds: of silence, until a process counts as lost.
            on_lost: told which, in another thread; ends this process. May be changed.
        """
        self._timeout = timeout_seconds
        self.on_lost = on_lost
        self._client: Any = distributed.global_state.client
        self._me: int = distributed.global_state.process_id or 0
        others = range(1, distributed.global_state.num_processes or 1)
        now = time.monotonic()
        # Process -> last beat, and when it came.
        self._heard = {str(i): ("", now) for i in others} if self._me == 0 else {"0": ("", now)}
        self._answered = time.monotonic()  # when jax's coordination service did so last
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._host = "process 0"
        self._aborted: Any = None  # kept, for C has its address
        self._guard = threading.Thread(target=self._watch_the_watch, name="peers-2", daemon=True)

    def __enter__(self) -> Peers:
        if self._client is not None:
            who = f"host {socket.gethostname()}, pid {os.getpid()}"
            self._client.key_value_set(f"{WHO}{self._me}", who)
            self._host = f"process 0 ({self.ask(f'{WHO}0', 60) or 'did not name itself'})"
            self._answer_abort()
            self._answered = time.monotonic()
            self._thread.start()
            self._guard.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more: this process is about to end, and so are the others."""
        if self._client is not None:
            self._ended.set()
            self._thread.join(3 * INTERVAL)  # it may wait for an answer that never comes

    def blame(self) -> str:
        """Find out, after a collective failed, which processes are silent; takes some seconds."""
        try:
            before = self._beats()
            time.sleep(3 * INTERVAL)
            after = self._beats()
            silent = [name for name in after if before.get(name) == after[name]]
            lost = self._describe([name for name in silent if name != str(self._me)])
            if self._me == 0 and silent:  # or those that ask later would blame this process
                self.announce(lost)
            return lost
        except jax.errors.JaxRuntimeError:
            return self._host

    def _answer_abort(self) -> None:
        """End as for any loss where jax aborts because process 0 is gone; other aborts stay."""
        address, _, port = str(distributed.global_state.coordinator_address).rpartition(":")

        def aborted(_number: int) -> None:
            try:
                socket.create_connection((address.strip("[]"), int(port)), timeout=1).close()
            except OSError:
                self.on_lost(f"lost {self._host}")

        self._aborted = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._aborted)

    def announce(self, lost: str) -> None:
        """As process 0, before it ends alone: make the others end too."""
        self._client.key_value_set(LOST, lost, allow_overwrite=True)
        time.sleep(2 * INTERVAL)  # for them to read it, before the service ends with this one

    def tell(self, key: str, text: str) -> None:
        """Say something to the others; unlike a collective it needs nobody to be there."""
        self._client.key_value_set(key, text)

    def ask(self, key: str, seconds: float) -> str | None:
        """Return what one of them has said, or says in so many seconds; None: nothing."""
        try:
            return str(self._client.blocking_key_value_get(key, int(seconds * 1000)))
        except jax.errors.JaxRuntimeError:
            return None

    def _watch(self) -> None:
        count = 0
        while not self._ended.wait(INTERVAL):
            count += 1
            try:
                self._client.key_value_set(f"{BEAT}{self._me}", str(count), allow_overwrite=True)
                lost = self._silent() if self._me == 0 else self._announced()
            except jax.errors.JaxRuntimeError:
                lost = self._host
            self._answered = time.monotonic()
            if lost:
                self._leave(lost)

    def _watch_the_watch(self) -> None:
        """End a process that is cut off: its questions to the service wait without an end."""
        while not self._ended.wait(INTERVAL):
            if time.monotonic() - self._answered > self._timeout:
                self._leave(
                    f"{self._host}, which cannot be reached from here for {self._timeout:g} s"
                )

    def _leave(self, lost: str) -> None:
        if not self._ended.is_set():
            self.on_lost(f"lost {lost}")

    def _silent(self) -> str:
        """As process 0: tell who is lost, and announce it to the others."""
        now = time.monotonic()
        for name, beat in self._beats().items():
            if name not in self._heard or self._heard[name][0] != beat:
                self._heard[name] = (beat, now)
        lost = [name for name, (_, when) in self._heard.items() if now - when > self._timeout]
        if not lost:
            return ""
        told = f"{self._describe(lost)}: silent for {self._timeout:g} s"
        self.announce(told)
        return told

    def _announced(self) -> str:
        now = time.monotonic()
        beat = self._get(f"{BEAT}0")
        if self._heard["0"][0] != beat:
            self._heard["0"] = (beat, now)
        if now - self._heard["0"][1] > self._timeout:
            return f"{self._describe(['0'])}: silent for {self._timeout:g} s"
        return self._get(LOST)

    def _get(self, key: str) -> str:
        try:
            return str(self._client.key_value_try_get(key))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return ""
            raise

    def _beats(self) -> dict[str, str]:
        return {key.rpartition("/")[2]: beat for key, beat in self._client.key_value_dir_get(BEAT)}

    def _describe(self, names: list[str]) -> str:
        if not names:
            return "a process that did not name itself"
        who = ((name, self._get(f"{WHO}{name}") or "did not name itself") for name in names)
        return ", ".join(f"process {name} ({described})" for name, described in who)
