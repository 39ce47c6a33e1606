"""Downloads from real servers on this machine, most of them bad ones."""

import gzip
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.mirrors import BODY, CONTENTS, Server

from trainer.data.report import Report
from trainer.formats import download
from trainer.formats.download import fetch
from trainer.job.errors import DataError, Preempted

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
    for thread in threading.enumerate():
        if thread.name.endswith("(run)"):
            thread.join()  # left behind by a stop; it ends with the server


def parse(data, name):
    """Return the contents if they are those, packed or not."""
    contents = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    if contents != CONTENTS:
        raise DataError(f"{name}: other contents", "a hint")
    return contents


def get(mirrors, target, seconds=5.0, progress=lambda *_: None, poll=lambda: None):
    report = Report(progress, poll, pytest.fail)
    return fetch(mirrors, "file.gz", target, parse=parse, timeout_seconds=seconds, report=report)


@pytest.mark.parametrize("behaviour", ["good", "unmeasured", "moved"])
def test_the_file_is_put_in_place_as_sent(server, tmp_path, behaviour):
    target = tmp_path / "new" / "folder" / "file.gz"
    assert get([server.url(behaviour)], target) == CONTENTS
    assert target.read_bytes() == BODY
    assert [*target.parent.iterdir()] == [target]


def test_progress_is_reported_and_that_a_download_has_failed(server, tmp_path):
    reports = []
    mirrors = [server.url(behaviour) for behaviour in ("missing", "other", "truncated", "good")]
    get(mirrors, tmp_path / "f", progress=lambda *report: reports.append(report))
    ends = [report for report in reports if report[2] == 0 or report[1] == report[2]]
    assert ends == [
        *[("downloading file.gz", 0, 0)] * 3,
        ("downloading file.gz", len(BODY), len(BODY)),
    ]


BAD = {
    "missing": "HTTP 404 Not Found",
    "truncated": rf"IncompleteRead\(100 bytes read, {len(BODY) - 100} more expected\)",
    "rude": "I do not speak HTTP",
    "closing": "Remote end closed connection without response",
    "silent": "timed out",
    "half": "timed out",
    "other": "other contents",
    "endless": "larger than 1,000,000 bytes",
    "moved_with_a_key": "[^?]*Connection refused",
}


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_mirror_is_reported_and_leaves_nothing(server, tmp_path, behaviour, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 1_000_000)
    url = server.url(behaviour)
    message = f"^{tmp_path}/file.gz: no mirror has a good file:\n  {url}/file.gz: {BAD[behaviour]}"
    with pytest.raises(DataError, match=message) as caught:
        get([url], tmp_path / "file.gz", seconds=0.2)
    assert "token" not in str(caught.value)
    assert server.requests == [behaviour]
    assert [*tmp_path.iterdir()] == []


def test_the_next_mirror_is_used(server, tmp_path):
    mirrors = ["http://127.0.0.1:1", *map(server.url, ["missing", "other", "good"])]
    get(mirrors, tmp_path / "file.gz")
    assert (tmp_path / "file.gz").read_bytes() == BODY
    assert server.requests == ["missing", "other", "good"]


def test_every_mirror_is_reported(server, tmp_path):
    mirrors = ["http://127.0.0.1:1", server.url("missing")]
    message = r":1/file.gz: .*Connection refused\n.*HTTP 404 Not Found$"
    with pytest.raises(DataError, match=message):
        get(mirrors, tmp_path / "file.gz")
    with pytest.raises(DataError, match=r"data\.mirrors is empty"):
        get([], tmp_path / "file.gz")


@pytest.mark.parametrize("behaviour", ["endless", "silent"])
def test_a_stop_ends_the_download(server, tmp_path, behaviour):
    def stop():
        if server.requests:
            raise Preempted("a stop")

    start = time.monotonic()
    with pytest.raises(Preempted):
        get(
            [server.url(behaviour), server.url("good")],
            tmp_path / "file.gz",
            poll=stop,
            seconds=60,
        )
    assert time.monotonic() - start < 3
    assert server.requests == [behaviour]
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data\.cache_dir=DIR"):
        get([server.url("good")], tmp_path / "file" / "file.gz")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"No space left on device\): free some space"):
        get([server.url("good")], tmp_path / "file.gz")
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


def test_downloads_at_once_do_no_harm(server, tmp_path):
    """One of them in a process that is killed in the middle."""
    program = f"""
from pathlib import Path
from trainer.data.report import Report
from trainer.formats.download import fetch
fetch(["{server.url("half")}"], "file.gz", Path("file.gz"), parse=print, timeout_seconds=20,
      report=Report(lambda *_: None, lambda: None, print))
"""
    environment = {"PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    with subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) as job:
        while not server.requests and job.poll() is None:
            time.sleep(0.02)
        target = tmp_path / "file.gz"
        jobs = [threading.Thread(target=get, args=([server.url("good")], target)) for _ in range(3)]
        for thread in jobs:
            thread.start()
        for thread in jobs:
            thread.join()
        job.kill()
    assert server.requests == ["half", "good", "good", "good"]
    assert target.read_bytes() == BODY
    assert [*tmp_path.iterdir()] == [target]
