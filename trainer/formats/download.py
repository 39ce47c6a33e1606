"""A file from the first mirror that has a good one, put in place whole or not at all."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TypeVar

from trainer.data.report import Report
from trainer.job.errors import DataError
from trainer.job.files import write_bytes

MAX_BYTES = 64 << 20  # of an answer: MNIST's largest file has 47 MB unpacked
POLL_SECONDS = 0.05  # from one poll to the next

Contents = TypeVar("Contents")


class Missing(DataError):
    """Files that are neither here nor downloadable: the case for data.offline_fallback."""


def fetch(
    mirrors: Sequence[str],
    filename: str,
    target: Path,
    *,
    parse: Callable[[bytes, str], Contents],
    timeout_seconds: float,
    report: Report,
) -> Contents:
    """Put MIRROR/filename at `target`, and return what `parse` makes of it.

    Of processes that do so at once, each downloads the file, and the last rename wins.

    Args:
        mirrors: http(s) addresses of folders, tried in this order.
        filename: of the file in each of them.
        target: where to put it, as sent.
        parse: given the bytes of a file and its address; refuses them with DataError.
        timeout_seconds: to connect to a mirror, and for its next bytes.
        report: its `poll` is called all the time, also while a server is silent.

    Raises:
        Missing: every mirror failed (the message says how), or the target cannot be written.
        Exception: whatever report.poll() raised.
    """
    label = f"downloading {filename}"
    failures = [] if mirrors else ["data.mirrors is empty"]
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{filename}"
        try:
            data = _in_thread(partial(_get, url, timeout_seconds, label, report), report.poll)
            contents = parse(data, url)
        except DataError as error:
            report.progress(label, 0, 0)
            failures.append(error.message)
            continue
        report.progress(label, len(data), len(data))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, data)
        except OSError as error:
            hint = "free some space, or choose another folder with data.cache_dir=DIR"
            raise Missing(f"{target} cannot be written ({error})", hint) from error
        return contents
    raise Missing("\n  ".join([f"{target}: no mirror has a good file:", *failures]))


def _in_thread(work: Callable[[], bytes], poll: Callable[[], None]) -> bytes:
    """Return what `work` returns, or leave it behind when poll raises.

    A stop must not wait for a silent server, and a blocked socket cannot ask for it.
    """
    future: Future[bytes] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # daemon: the process need not wait for it
    while not future.done():
        poll()
        wait([future], POLL_SECONDS)
    return future.result()


def _get(url: str, timeout_seconds: float, label: str, report: Report) -> bytes:
    """Return what is at an address; report how many bytes came, until all have come.

    Raises:
        DataError: no whole answer of at most MAX_BYTES came.
    """
    import requests  # takes 0.1 s, and most runs have their files already

    data = bytearray()
    headers = {"Accept-Encoding": "identity"}  # or a server may compress the gzip file once more
    try:
        with requests.get(url, headers=headers, timeout=timeout_seconds, stream=True) as response:
            if not response.ok:
                raise DataError(f"{url}: HTTP {response.status_code} {response.reason}")
            total = int(response.headers.get("Content-Length", 0)) or None
            for chunk in response.iter_content(1 << 14):
                data += chunk
                report.poll()  # or the thread that a stop leaves behind would continue
                if len(data) != total:
                    report.progress(label, len(data), total)
                if len(data) > MAX_BYTES:
                    raise DataError(f"{url}: larger than {MAX_BYTES:,} bytes")
    except requests.RequestException as error:
        # Its first cause: the texts of requests and urllib3 repeat the whole address, after a
        # redirection with the secrets in it.
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise DataError(f"{url}: {str(cause) or type(cause).__name__}") from None
    return bytes(data)
