"""A signal in every phase of a run: saved, code 75, and the same bits in the end."""

import http.server
import json
import signal
import threading
import time

import pytest
from conftest import Trainer

pytestmark = pytest.mark.timed

JOB = (
    "+experiment=smoke",
    "run.dir=run",
    "train.epochs=3",
    "train.steps_per_dispatch=7",
    "train.log_every_steps=21",
    "train.eval_batch_size=10",
    "checkpoint.every_steps=50",
)
STEPS = 3 * 63


def summary_of(folder):
    return json.loads((folder / "run" / "summary.json").read_text())


def points_of(folder):
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in p.items() if k not in ("time", "examples_per_second")} for p in points
    ]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The same job, never interrupted, on one and on two processes."""
    folders = {}
    for count in (1, 2):
        folders[count] = tmp_path_factory.mktemp(f"unbroken{count}")
        for process in Trainer(folders[count]).start_all(count, *JOB):
            process.communicate(timeout=120)
            assert process.returncode == 0
    return folders


def wait(condition, processes):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        if any(process.poll() is not None for process in processes):
            return  # it was faster than the watching: then it has to have completed
        time.sleep(0.001)


def logged(folder, text):
    path = folder / "run" / "metrics.jsonl"
    return path.exists() and text in path.read_text()


PHASES = {
    "import": None,  # a moment after the start
    "start-up": lambda folder: (folder / "run" / "run.lock").exists(),
    "compilation": lambda folder: (folder / "run" / "environment.json").exists(),
    "training": lambda folder: logged(folder, '"step": 21,'),
    "evaluation": lambda folder: logged(folder, '"step": 126, "split": "train"'),
    "saving": lambda folder: any((folder / "run" / "checkpoints").glob("*orbax-checkpoint-tmp*")),
    "last step": lambda folder: logged(folder, f'"step": {STEPS - 21},'),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_every_phase(trainer, tmp_path, unbroken, phase, count):
    processes = trainer.start_all(count, *JOB)
    if PHASES[phase] is None:
        time.sleep(0.4)
    else:
        wait(lambda: PHASES[phase](tmp_path), processes)
    told = time.monotonic()
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)  # a second one changes nothing
    codes = set()
    for process in processes:
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err
        codes.add(process.returncode)
    assert time.monotonic() - told < 10
    assert codes in ({75}, {0})
    if codes == {75}:
        # Before two processes have met, there is no run yet.
        if phase != "import" or (tmp_path / "run").exists():
            assert summary_of(tmp_path)["status"] == "preempted"
        for process in trainer.start_all(count, *JOB):
            process.communicate(timeout=120)
            assert process.returncode == 0
    whole, resumed = summary_of(unbroken[count]), summary_of(tmp_path)
    for key in ("status", "weights_sha256", "test_loss", "test_accuracy", "steps"):
        assert resumed[key] == whole[key]
    assert points_of(tmp_path) == points_of(unbroken[count])


class Stalling(http.server.BaseHTTPRequestHandler):
    """Promises a file and sends nothing of it."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.server.asked.set()
        self.server.ended.wait(60)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_during_the_download(trainer, tmp_path, count):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.asked, server.ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        processes = trainer.start_all(
            count,
            "+experiment=mlp",
            "run.dir=run",
            f"data.mirrors=[http://127.0.0.1:{server.server_port}]",
            f"data.cache_dir={tmp_path}/cache",
        )
        assert server.asked.wait(60)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        for process in processes:
            _, err = process.communicate(timeout=20)
            assert process.returncode == 75, err
            assert "Traceback" not in err
        assert time.monotonic() - told < 5
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert summary_of(tmp_path)["status"] == "preempted"
