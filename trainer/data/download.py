"""One file from the first mirror that has it: verified, then put in place whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from urllib.error import HTTPError, URLError

from trainer.job.errors import DataError, Preempted
from trainer.job.files import write_bytes

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


ROUNDS = 2  # over all mirrors
PAUSE_SECONDS = 1.0  # between the rounds


def fetch(
    mirrors: Sequence[str],
    filename: str,
    sha256: str,
    target: Path,
    *,
    timeout_seconds: float,
    progress: Progress,
    should_stop: ShouldStop,
) -> None:
    """Put MIRROR/filename at `target`, unless a good file is there by the time it is our turn.

    Of processes that start together on one folder, one downloads and the others wait for it;
    where the file system has no locks, each downloads and the last rename wins.

    Args:
        mirrors: http(s) addresses of folders, tried in this order, twice round.
        filename: of the file in each of them.
        sha256: of the contents, after gunzip if they are gzip.
        target: where to put the body, as sent.
        timeout_seconds: to connect, and for at least MIN_BYTES_PER_SECOND to come.
        progress: told file name, bytes so far, bytes in all.
        should_stop: looked at all the time, also while a mirror is silent.

    Raises:
        DataError: every mirror failed (the message tells each one's failure), or the target
            cannot be written.
        Preempted: should_stop() came true.
    """
    urls = [f"{mirror.rstrip('/')}/{filename}" for mirror in mirrors]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / ".download.lock", should_stop):
            if not _is_good(target, sha256):
                body = _first_good(urls, sha256, timeout_seconds, progress, should_stop)
                write_bytes(target, body)
    except OSError as error:
        fix = "make room, or choose another folder with data.cache_dir=DIR"
        raise DataError(f"{target}: cannot be written ({error})", fix) from error


def _first_good(
    urls: Sequence[str],
    sha256: str,
    timeout_seconds: float,
    progress: Progress,
    should_stop: ShouldStop,
) -> bytearray:
    failures: dict[str, None] = {}  # an ordered set
    for round_number in range(ROUNDS):
        if round_number:
            _wait(PAUSE_SECONDS, should_stop)
        for url in urls:
            try:
                body = get(url, timeout_seconds, progress, should_stop)
                _verify(body, sha256)
                return body
            except Refused as refused:
                failures[f"{url}: {refused}"] = None
    why = [*failures] or ["data.mirrors is empty"]
    raise DataError("\n  ".join(["no mirror has a good file:", *why]))


def _verify(body: bytes | bytearray, sha256: str) -> None:
    contents: bytes | bytearray = body
    if body.startswith(b"\x1f\x8b"):
        gunzip = zlib.decompressobj(wbits=31)
        try:
            contents = gunzip.decompress(body, MAX_BYTES + 1)
        except zlib.error as error:
            raise Refused(f"corrupt gzip data ({error})") from error
        if len(contents) > MAX_BYTES:
            raise Refused(f"too large: expected at most {MAX_BYTES:,} bytes of contents")
        if not gunzip.eof or gunzip.unused_data:
            raise Refused("corrupt gzip data (not one whole gzip member)")
    found = hashlib.sha256(contents).hexdigest()
    if found != sha256:
        raise Refused(f"digest mismatch: SHA-256 of the contents {found}, expected {sha256}")


def _is_good(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            _verify(file.read(MAX_BYTES + 1), sha256)
    except (OSError, Refused):
        return False
    return True


@contextmanager
def _locked(path: Path, should_stop: ShouldStop) -> Iterator[None]:
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _wait(POLL_SECONDS, should_stop)
            except OSError:  # no locks here: then the rename alone keeps the file whole
                break
            else:
                break
        yield


def _wait(seconds: float, should_stop: ShouldStop) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check(should_stop)
        time.sleep(min(left, POLL_SECONDS))
    check(should_stop)
