"""One HTTP GET that never hangs: it gives up a silent server, and stops when the run is to stop."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, IncompleteRead
from urllib.error import HTTPError, URLError

from trainer.errors import Preempted

MAX_BYTES = 64 << 20  # of a body, and of what it unpacks to: the largest file of MNIST has 47 MB
MIN_BYTES_PER_SECOND = 1024  # below it for a whole time-out, a server has stalled
POLL_SECONDS = 0.05  # how long a request to stop may go unseen

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all if known
ShouldStop = Callable[[], bool]


class Refused(Exception):
    """Why a server's answer is of no use."""


def get(url: str, timeout_seconds: float, progress: Progress, should_stop: ShouldStop) -> bytearray:
    """Return the body at an http(s) address, of at most MAX_BYTES.

    Args:
        url: its last part is the name that `progress` is told.
        timeout_seconds: to connect, and for at least MIN_BYTES_PER_SECOND to come.
        progress: told file name, bytes so far, bytes in all.
        should_stop: looked at all the time, also while the server is silent.

    Raises:
        Refused: no whole body came.
        Preempted: should_stop() came true.
    """
    transfer = _Transfer(url, timeout_seconds)
    transfer.start()
    since, before = time.monotonic(), 0
    try:
        alive = True
        while alive:
            transfer.join(POLL_SECONDS)
            alive = transfer.is_alive()
            check(should_stop)
            received = len(transfer.body)
            progress(url.rpartition("/")[2], received, transfer.total)
            seconds = time.monotonic() - since
            if seconds >= timeout_seconds and alive:
                if received - before < MIN_BYTES_PER_SECOND * seconds:
                    raise Refused(f"timed out: {received - before:,} bytes in {seconds:.0f} s")
                since, before = since + seconds, received
    finally:
        transfer.abandoned = True
    received, total = len(transfer.body), transfer.total
    if transfer.failure is not None:
        raise Refused(transfer.failure)
    if received > MAX_BYTES:
        raise Refused(f"too large: expected at most {MAX_BYTES:,} bytes")
    if total is not None and received < total:
        raise Refused(f"truncated: {received:,} of {total:,} bytes")
    return transfer.body


def check(should_stop: ShouldStop) -> None:
    """Do nothing, unless the run is to stop.

    Raises:
        Preempted: should_stop() is true.
    """
    if should_stop():
        raise Preempted("asked to stop during the download of the data set")


class _Transfer(threading.Thread):
    """A GET in a thread of its own, for a blocked socket cannot look at should_stop.

    It ends by itself: at the end of the body, or when its socket times out.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        super().__init__(daemon=True)
        self.body = bytearray()
        self.total: int | None = None
        self.failure: str | None = None
        self.abandoned = False
        self._url = url
        self._timeout_seconds = timeout_seconds

    def run(self) -> None:
        try:
            with _opener().open(self._url, timeout=self._timeout_seconds) as response:
                self.total = response.length
                while not self.abandoned and len(self.body) <= MAX_BYTES:
                    chunk = response.read1(1 << 16)
                    if not chunk:
                        break
                    self.body += chunk
        except HTTPError as error:
            with error:
                self.failure = f"HTTP {error.code} {error.reason}"
        except IncompleteRead:
            self.failure = f"truncated: only {len(self.body):,} bytes"
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            timed_out = isinstance(reason, TimeoutError)
            self.failure = "timed out" if timed_out else str(reason) or type(reason).__name__


def _opener() -> urllib.request.OpenerDirector:
    """Return what follows http and https, and redirections to them, and no other scheme."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
