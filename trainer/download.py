"""One file from the first mirror that has it: verified, then put in place whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.atomic import write_bytes
from trainer.errors import DataError
from trainer.transfer import MAX_BYTES, POLL_SECONDS, Progress, Refused, ShouldStop, check, get

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
