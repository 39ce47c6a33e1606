"""Downloads from real servers on this machine, most of them bad ones."""

import fcntl
import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.data import download
from trainer.data import download as transfer
from trainer.data.download import fetch
from trainer.job.errors import DataError, Preempted

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = bytes(range(256)) * 200
BODY = gzip.compress(CONTENTS)
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """The first part of the path says how the server behaves."""

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        self.server.requests.append(behaviour)
        getattr(self, behaviour)()

    def log_message(self, *_):
        pass

    def answer(self, body, length=None, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def good(self):
        self.answer(BODY)

    def slow(self):
        time.sleep(0.3)
        self.answer(BODY)

    def unpacked(self):
        self.answer(CONTENTS)

    def unmeasured(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def moved(self):
        self.answer(b"", status=302, Location="/good/file.gz")

    def moved_to_a_file(self):
        self.answer(b"", status=302, Location="file:///etc/hostname")

    def missing(self):
        self.send_error(404)

    def broken(self):
        self.send_error(500)

    def flaky(self):
        self.answer(BODY) if self.server.requests.count("flaky") > 1 else self.send_error(503)

    def truncated(self):
        self.answer(BODY[:100], length=len(BODY))

    def rude(self):
        self.wfile.write(b"I do not speak HTTP\r\n")

    def closing(self):
        pass

    def silent(self):
        self.server.closing.wait()

    def half(self):
        self.answer(BODY[:100], length=len(BODY))
        self.server.closing.wait()

    def trickle(self):
        self.answer(b"", length=len(BODY))
        while not self.server.closing.wait(0.05):
            self.wfile.write(b"x")

    def other(self):
        self.answer(gzip.compress(b"other"))

    def corrupt(self):
        self.answer(BODY[:-8] + bytes(8))

    def tail(self):
        self.answer(BODY + b"tail")

    def bomb(self):
        self.answer(gzip.compress(bytes(transfer.MAX_BYTES + 10), compresslevel=1))

    def endless(self):
        self.send_response(200)
        self.end_headers()
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 20))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.closing = threading.Event()

    def handle_error(self, *_):
        pass  # clients that go away

    def url(self, behaviour):
        return f"http://127.0.0.1:{self.server_port}/{behaviour}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.05)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
    for thread in threading.enumerate():
        if isinstance(thread, transfer._Transfer):
            thread.join()  # it ends with the server, or at its own time-out


def get(mirrors, target, **changes):
    options = {
        "timeout_seconds": 5.0,
        "progress": lambda *_: None,
        "should_stop": lambda: False,
        **changes,
    }
    fetch(mirrors, "file.gz", SHA256, target, **options)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".download.lock")


@pytest.mark.parametrize("behaviour", ["good", "unmeasured", "moved", "flaky"])
def test_the_body_is_put_in_place_as_sent(server, tmp_path, behaviour):
    target = tmp_path / "new" / "folder" / "file.gz"
    get([server.url(behaviour)], target)
    assert target.read_bytes() == BODY
    assert left_in(target.parent) == ["file.gz"]


def test_contents_that_a_mirror_unpacked_are_welcome(server, tmp_path):
    get([server.url("unpacked")], tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == CONTENTS


def test_progress_is_told(server, tmp_path):
    told = []
    get([server.url("good") + "/"], tmp_path / "f", progress=lambda *told_: told.append(told_))
    assert told[-1] == ("file.gz", len(BODY), len(BODY))


BAD = {
    "missing": "HTTP 404 Not Found",
    "broken": "HTTP 500 Internal Server Error",
    "truncated": rf"truncated: .*100 (of {len(BODY):,} )?bytes",
    "rude": "I do not speak HTTP",
    "closing": "Remote end closed connection without response",
    "silent": "timed out",
    "half": "timed out",
    "trickle": "timed out: [0-9]+ bytes in 1 s",
    "other": f"digest mismatch: .*[0-9a-f]{{64}}, expected {SHA256}",
    "corrupt": "corrupt gzip data .*incorrect data check",
    "tail": "corrupt gzip data",
    "moved_to_a_file": "HTTP 302",
}


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_mirror_is_reported_and_leaves_nothing(server, tmp_path, behaviour):
    url = server.url(behaviour)
    with pytest.raises(
        DataError, match=f"no mirror has a good file:\n  {url}/file.gz: .*{BAD[behaviour]}"
    ):
        get([url], tmp_path / "file.gz", timeout_seconds=0.6)
    assert server.requests == [behaviour] * download.ROUNDS
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("behaviour", ["bomb", "endless"])
def test_too_much_is_refused(server, tmp_path, behaviour, monkeypatch):
    for module in (download, transfer):
        monkeypatch.setattr(module, "MAX_BYTES", 4 << 20)
    with pytest.raises(DataError, match="too large: expected at most 4,194,304 bytes"):
        get([server.url(behaviour)], tmp_path / "file.gz")
    assert left_in(tmp_path) == []


def test_the_next_mirror_is_used(server, tmp_path):
    mirrors = ["http://127.0.0.1:1", *map(server.url, ["missing", "other", "good"])]
    get(mirrors, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == BODY
    assert server.requests == ["missing", "other", "good"]


def test_every_mirror_is_reported(server, tmp_path):
    mirrors = ["http://127.0.0.1:1", server.url("missing")]
    with pytest.raises(DataError, match=r"(?s):1/file.gz: .*Connection refused\n.*HTTP 404"):
        get(mirrors, tmp_path / "file.gz")
    with pytest.raises(DataError, match=r"data\.mirrors is empty"):
        get([], tmp_path / "file.gz")


@pytest.mark.parametrize("behaviour", ["silent", "half", "trickle"])
def test_a_stop_is_seen_while_a_mirror_is_silent(server, tmp_path, behaviour):
    start = time.monotonic()
    with pytest.raises(Preempted):
        get(
            [server.url(behaviour)],
            tmp_path / "file.gz",
            should_stop=lambda: time.monotonic() - start > 0.3,
            timeout_seconds=60,
        )
    assert time.monotonic() - start < 3
    assert left_in(tmp_path) == []


def test_a_stop_is_seen_while_another_process_downloads(server, tmp_path):
    with (tmp_path / ".download.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        start = time.monotonic()
        with pytest.raises(Preempted):
            get(
                [server.url("good")],
                tmp_path / "file.gz",
                should_stop=lambda: time.monotonic() - start > 0.2,
            )
    assert server.requests == []


def test_a_good_file_is_kept_and_a_bad_one_replaced(server, tmp_path):
    target = tmp_path / "file.gz"
    target.write_bytes(BODY[:50])
    get([server.url("good")], target)
    assert target.read_bytes() == BODY
    get([server.url("broken")], target)
    assert server.requests == ["good"]


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data\.cache_dir=DIR"):
        get([server.url("good")], tmp_path / "file" / "file.gz")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"No space left on device\): make room"):
        get([server.url("good")], tmp_path / "file.gz")
    assert left_in(tmp_path) == ["file"]


def test_the_rename_alone_does_where_there_are_no_locks(server, tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(download.fcntl, "flock", unsupported)
    outcomes = []

    def job():
        get([server.url("slow")], tmp_path / "file.gz")
        outcomes.append((tmp_path / "file.gz").read_bytes() == BODY)

    jobs = [threading.Thread(target=job) for _ in range(3)]
    for job_ in jobs:
        job_.start()
    for job_ in jobs:
        job_.join()
    assert outcomes == [True] * 3
    assert left_in(tmp_path) == ["file.gz"]


def test_processes_that_start_together_download_once(server, tmp_path):
    program = f"""
from pathlib import Path
from trainer.data.download import fetch
fetch(["{server.url("slow")}"], "file.gz", "{SHA256}", Path("file.gz"), timeout_seconds=20,
      progress=lambda *_: None, should_stop=lambda: False)
"""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"},
        )
        for _ in range(4)
    ]
    assert [job.wait(30) for job in jobs] == [0] * 4
    assert server.requests == ["slow"]
    assert (tmp_path / "file.gz").read_bytes() == BODY
    assert left_in(tmp_path) == ["file.gz"]


def test_a_killed_process_does_not_block_the_next(server, tmp_path):
    program = f"""
from pathlib import Path
from trainer.data.download import fetch
fetch(["{server.url("silent")}"], "file.gz", "{SHA256}", Path("file.gz"), timeout_seconds=20,
      progress=lambda *_: None, should_stop=lambda: False)
"""
    environment = {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) as job:
        while not server.requests and job.poll() is None:
            time.sleep(0.02)
        job.kill()
    get([server.url("good")], tmp_path / "file.gz")
    assert server.requests == ["silent", "good"]
