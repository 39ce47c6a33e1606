"""Notice that another process of the run is lost, and which.

Each process counts up a number in the key-value store of jax's coordination service. Process 0
watches the numbers of all others and announces who is lost; the others read that announcement. So
the work does not grow with the square of the number of processes.

The service lives in process 0. When process 0 is killed, jax aborts the others within 0.1 s, from a
C++ thread that takes no callback, so the heartbeat handles the abort itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
from jax._src import distributed  # the service has no public API; orbax uses this one too

from trainer.job.exit import time_limit
from trainer.job.stdout import printable

INTERVAL = 1.0  # seconds between beats
BEAT, NAME, LOST = "trainer/beat/", "trainer/name/", "trainer/lost"


class Heartbeat:
    """A context manager: in its block, a thread watches the other processes.

    A single process watches nobody.
    """

    def __init__(self, timeout_seconds: float, on_lost: Callable[[str], None]) -> None:
        """Call `on_lost` after `timeout_seconds` of silence of another process.

        It gets a message in another thread, and ends this process. It may be replaced later.
        """
        self.on_lost = on_lost
        self._timeout = timeout_seconds
        self._client: Any = distributed.global_state.client
        self._rank: int = distributed.global_state.process_id or 0
        self._count: int = distributed.global_state.num_processes or 1
        # Rank -> last beat, and when process 0 first saw it.
        self._beats = {rank: ("", time.monotonic()) for rank in range(self._count)}
        self._host = "process 0"
        self._on_abort: Any = None  # kept alive: C has its address
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        if self._client is not None:
            name = f"host {socket.gethostname()}, pid {os.getpid()}"
            self._client.key_value_set(f"{NAME}{self._rank}", name)
            with suppress(jax.errors.JaxRuntimeError):  # process 0 has not come this far
                host = self._client.blocking_key_value_get(f"{NAME}0", 60_000)
                self._host = f"process 0 ({printable(host)})"
            self._handle_abort()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching: this process is about to end, and so are the others."""
        if self._client is not None:
            self._closed.set()
            self._thread.join(3 * INTERVAL)  # it may wait for an answer that never comes

    def find_lost(self) -> str:
        """Return who does not beat, once a collective has failed; takes some seconds."""
        try:
            before = self._read_beats()
            time.sleep(3 * INTERVAL)
            after = self._read_beats()
            others = [rank for rank in range(self._count) if rank != self._rank]
            lost = self._describe([i for i in others if before.get(i) == after.get(i)])
            if self._rank == 0:  # else the others would blame this process
                self._announce(lost)
            return lost
        except jax.errors.JaxRuntimeError:
            return self._host

    def _announce(self, lost: str) -> None:
        """As process 0, make the others end as well, before this process does."""
        self._client.key_value_set(LOST, lost, allow_overwrite=True)
        time.sleep(2 * INTERVAL)  # the service ends with this process: let them read it first

    def _handle_abort(self) -> None:
        """When jax aborts because process 0 is lost, call `on_lost`; leave other aborts alone."""
        address, _, port = str(distributed.global_state.coordinator_address).rpartition(":")

        def on_abort(_number: int) -> None:
            try:
                socket.create_connection((address.strip("[]"), int(port)), timeout=1).close()
            except OSError:
                self.on_lost(f"lost {self._host}")

        # Not signal.signal: Python runs its handlers in the main thread, which an abort never
        # reaches. This one is called by C at once, in the thread that aborts.
        self._on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._on_abort)

    def _run(self) -> None:
        count = 0
        cut_off = f"{self._host}, which cannot be reached from here for {self._timeout:g} s"
        while not self._closed.wait(INTERVAL):
            count += 1
            try:
                # Where the network is cut, the service's client waits for an answer for ever.
                with time_limit(self._timeout, lambda: self._report(cut_off)):
                    self._client.key_value_set(
                        f"{BEAT}{self._rank}", str(count), allow_overwrite=True
                    )
                    lost = self._find_silent() if self._rank == 0 else self._get(LOST)
            except jax.errors.JaxRuntimeError:
                lost = self._host
            if lost:
                self._report(lost)

    def _report(self, lost: str) -> None:
        if not self._closed.is_set():
            self.on_lost(f"lost {lost}")

    def _find_silent(self) -> str:
        """As process 0, return who is lost, if anybody is, and announce it to the others."""
        now = time.monotonic()
        for rank, beat in self._read_beats().items():
            if self._beats[rank][0] != beat:
                self._beats[rank] = (beat, now)
        lost = [rank for rank, (_, seen) in self._beats.items() if now - seen > self._timeout]
        if not lost:
            return ""
        message = f"{self._describe(lost)}: silent for {self._timeout:g} s"
        self._announce(message)
        return message

    def _get(self, key: str) -> str:
        try:  # printable: whoever reaches the service can write to it
            return printable(self._client.key_value_try_get(key))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return ""
            raise

    def _read_beats(self) -> dict[int, str]:
        entries = self._client.key_value_dir_get(BEAT)
        return {int(key.rpartition("/")[2]): beat for key, beat in entries}

    def _describe(self, ranks: Sequence[int]) -> str:
        names = ((rank, self._get(f"{NAME}{rank}") or "did not name itself") for rank in ranks)
        return ", ".join(f"process {rank} ({name})" for rank, name in names) or "another process"
