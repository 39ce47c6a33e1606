"""A real TensorBoard, by scripts/dashboard, shows a resumed run; a real browser draws its pages."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that was stopped in its third epoch and finished by the same command."""
    folder = tmp_path_factory.mktemp("dashboard")
    command = [
        *(sys.executable, "-m", "trainer", "+experiment=smoke", "run.dir=runs/resumed"),
        *("train.epochs=30", "train.steps_per_dispatch=1", "train.log_every_steps=21"),
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    options = {"cwd": folder, "env": {**environ, "JAX_PLATFORMS": "cpu"}}
    metrics = folder / "runs" / "resumed" / "metrics.jsonl"
    with (folder / "first.txt").open("w") as told:
        first = subprocess.Popen(command, stderr=told, **options)
        while first.poll() is None and not (
            metrics.exists() and '"step": 210,' in metrics.read_text()
        ):
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 75, (folder / "first.txt").read_text()
    subprocess.run(command, check=True, capture_output=True, timeout=120, **options)
    return folder / "runs"


@pytest.fixture(scope="module")
def board(runs):
    """The address of a TensorBoard that has read the run to its end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (runs.parent / "tensorboard.txt").open("w") as told:
        process = subprocess.Popen(
            [ROOT / "scripts" / "dashboard", runs, "--port", str(port)],
            env={**os.environ, "TRAINER_VENV": sys.prefix},
            stdout=told,
            stderr=told,
        )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            if (
                len(get(address, "scalars/scalars", run="resumed/tensorboard", tag="eval/loss"))
                == 30
            ):
                break
        except OSError:
            pass  # not up yet
        assert time.monotonic() < deadline, (runs.parent / "tensorboard.txt").read_text()
        time.sleep(0.3)
    yield address
    process.terminate()
    process.wait(20)


def get(address, route, **query):
    url = f"{address}/data/plugin/{route}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.parametrize("name", ["train/loss", "train/lr", "eval/loss", "eval/accuracy"])
def test_curves_are_those_of_the_log_each_point_once(runs, board, name):
    split, _, key = name.partition("/")
    lines = (runs / "resumed" / "metrics.jsonl").read_text().splitlines()
    points = [point for point in map(json.loads, lines) if point["split"] == split]
    shown = get(board, "scalars/scalars", run="resumed/tensorboard", tag=name)
    assert [step for _, step, _ in shown] == [point["step"] for point in points]
    for (_, _, value), point in zip(shown, points, strict=True):
        assert value == pytest.approx(point[key], rel=1e-6)


def test_what_else_is_shown(board):
    run = "resumed/tensorboard"
    tags = get(board, "scalars/tags")[run]
    assert {f"class_accuracy/{digit}" for digit in range(10)} <= set(tags)
    assert {"time/goodput", "time/step_ms", "memory/host_peak"} <= set(tags)
    assert {"weight_norm/layer/0/kernel", "gradient_norm/layer/0/kernel"} <= set(tags)
    assert {"confusion", "filters", "inputs", "most_wrong"} == set(get(board, "images/tags")[run])
    assert {"configuration/text_summary", "environment/text_summary"} <= set(
        get(board, "text/tags")[run]
    )
    assert "weights/layer/0/kernel" in get(board, "histograms/tags")[run]
    layout = get(board, "custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == ["Training", "Speed", "Layers"]
    shown = get(board, "images/images", run=run, tag="confusion", sample=0)
    assert [image["step"] for image in shown] == [63 * epoch for epoch in range(5, 31, 5)]


def test_hyperparameters_stand_in_the_run_s_own_row(board):
    url = f"{board}/data/plugin/hparams/session_groups"
    wanted = {
        "startIndex": 0,
        "sliceSize": 10,
        "colParams": [],
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_RUNNING", "STATUS_FAILURE", "STATUS_UNKNOWN"],
    }
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(wanted).encode(), kind, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        (group,) = json.load(answer)["sessionGroups"]
    assert group["hparams"]["optim.lr"] > 0
    assert group["hparams"]["run.seed"] == 0
    (session,) = group["sessions"]
    assert session["name"] == "resumed/tensorboard"
    assert session["status"] == "STATUS_SUCCESS"


@pytest.mark.parametrize("page", ["timeseries", "custom_scalars", "images", "text", "hparams"])
def test_pages_in_a_real_browser(board, tmp_path, page):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium not found: on Debian, apt-get install chromium")
    quiet = ("quic", "background-networking", "component-update", "sync")
    shot = tmp_path / f"{page}.png"
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *(f"--disable-{name}" for name in quiet),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"),
            *("--virtual-time-budget=15000", f"--screenshot={shot}", f"{board}/#{page}"),
        ],
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert shot.exists(), done.stderr
    contents = np.asarray(Image.open(shot).convert("L"))[80:, 420:]  # without the menus
    assert contents.std() > 5, "the page is empty"
    assert len(np.unique(contents)) > 50
