"""A real TensorBoard, started as people start it, and asked as its own pages ask it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def tensorboard(folder, log, ready, *options):
    """Serve a folder of runs by scripts/dashboard; yield the address once ready(address)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [ROOT / "scripts" / "dashboard", folder, "--port", str(port), *options]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env={**os.environ, "TRAINER_VENV": sys.prefix}, stdout=file, stderr=file
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not _is(ready, address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.3)
        assert f"{address} " in log.read_text()
        assert f"ssh -N -L {port}:127.0.0.1:{port} " in log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait(120)


def _is(ready, address):
    try:
        return ready(address)
    except OSError:
        return False  # not up yet, or without this run


def fetch(address, route, **query):
    """Return what a plugin answers."""
    url = f"{address}/data/plugin/{route}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=120) as answer:
        return answer.read()


def get(address, route, **query):
    """Return what a plugin answers, as JSON."""
    return json.loads(fetch(address, route, **query))


def hparams(address):
    """Return the table of the page HParams: run -> (its options, its metrics, its status)."""
    wanted = {
        "startIndex": 0,
        "sliceSize": 100,
        "colParams": [{"metric": {"tag": "validation/accuracy"}, "order": "ORDER_ASC"}],
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_FAILURE", "STATUS_UNKNOWN"],
    }
    request = urllib.request.Request(
        f"{address}/data/plugin/hparams/session_groups",
        json.dumps(wanted).encode(),
        {"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        groups = json.load(answer)["sessionGroups"]
    rows = {}
    for group in groups:
        (session,) = group["sessions"]
        metrics = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        rows[session["name"]] = group["hparams"], metrics, session["status"]
    return rows
