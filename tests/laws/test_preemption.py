"""A signal in every phase of a run: saved, code 75, and the same bits in the end."""

import http.server
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support import idx_files
from support.in_process import points_of, summary_of
from support.program import Trainer

from trainer.job import directory
from trainer.job.signals import SIGNALS

pytestmark = pytest.mark.timed

STEPS = 3 * 63
JOB = (
    "+experiment=smoke",
    "run.dir=run",
    "data=idx",
    "train.epochs=3",
    "train.steps_per_dispatch=7",
    "train.log_every_steps=7",
    "checkpoint.every_steps=50",
    "model.hidden_sizes=[512,512]",  # which takes some time to save
)
BOUND = 5 + 1  # seconds from the signal to the exit, and one for the dispatch under way
WAIT = 240  # at most, for what is not measured


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The job: its validation split is large enough for an evaluation to be met under way."""
    folder = tmp_path_factory.mktemp("data")
    idx_files.write(folder, train=20_000)
    return (*JOB, f"data.root={folder}", "data.validation_fraction=0.8")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, job):
    """The same job, never interrupted, on one and on two processes."""
    folders = {count: tmp_path_factory.mktemp(f"unbroken{count}") for count in (1, 2)}
    runs = [Trainer(folder).start_all(count, *job) for count, folder in folders.items()]
    for process in (process for run in runs for process in run):
        _, err = process.communicate(timeout=WAIT)
        assert process.returncode == 0, err
    return folders


def listens(process):
    """Return whether the process handles all three signals: the first thing that it does."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (SIGNALS[-1] - 1) & 1)  # installed last


def seconds_to_end(processes):
    """Return how long it takes until all end, as if they had the cores for themselves.

    Where other programs run, too, each of them gets a share: the time counts divided by the threads
    that run or wait for a core, for each core.
    """
    began, cores, threads = time.monotonic(), len(os.sched_getaffinity(0)), []
    while any(process.poll() is None for process in processes):
        assert time.monotonic() < began + WAIT
        threads.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]))
        time.sleep(0.01)
    return (time.monotonic() - began) / max(1, np.mean(threads or [0]) / cores)


def logged(run, split, step):
    path = run / "metrics.jsonl"
    return path.exists() and f'"step": {step}, "split": "{split}"' in path.read_text()


def saving(run):
    """Return whether a checkpoint is being written: a folder that is not one yet."""
    folder = run / "checkpoints"
    names = {path.name for path in folder.glob("*") if not path.name.startswith("trash-")}
    return bool(names - {str(step) for step in directory.steps(folder)})


# Whether a run is in a phase, by its files.
PHASES = {
    "import": lambda run: not run.exists(),
    "start-up": lambda run: (run / "run.lock").exists() and not (run / "goodput.json").exists(),
    "compilation": lambda run: (run / "goodput.json").exists() and not logged(run, "train", 7),
    "training": lambda run: logged(run, "train", 21) and not logged(run, "train", 63),
    "evaluation": lambda run: logged(run, "train", 126) and not logged(run, "validation", 126),
    "saving": lambda run: logged(run, "train", 63) and saving(run),
    "last step": lambda run: logged(run, "train", STEPS - 7),
}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_in_every_phase(trainer, tmp_path, job, unbroken, phase, count):
    run, reached = tmp_path / "run", PHASES[phase]
    number = SIGNALS[(list(PHASES).index(phase) + count) % len(SIGNALS)]
    if phase != "last step":  # after which the run waits for its pictures
        job = (*job, "train.pictures_every_epochs=null")
    # The programs of the fixture's runs are kept, except where they are to be compiled.
    cache = {"TRAINER_CACHE_DIR": str(tmp_path / "cache")} if phase == "compilation" else {}
    processes = trainer.start_all(count, *job, **cache)
    deadline = time.monotonic() + WAIT
    while not (all(listens(process) for process in processes) and reached(run)):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)
    for process in processes:
        process.send_signal(number)
        process.send_signal(number)  # a second one changes nothing
    assert reached(run), "the phase was over before the signal"
    assert all(process.poll() is None for process in processes)
    seconds, codes = seconds_to_end(processes), set()
    for process in processes:
        _, err = process.communicate()
        assert "Traceback" not in err
        codes.add(process.returncode)
    print(f"| {phase} | {count} | {', '.join(map(str, codes))} | {seconds:.1f} s |")
    assert codes == {75} or (phase == "last step" and codes == {0})
    assert seconds < BOUND
    if codes == {75}:
        if phase == "import" and not run.exists():
            return  # the next start would be the first
        assert summary_of(tmp_path)["status"] == "preempted"
        for process in trainer.start_all(count, *job):
            process.communicate(timeout=WAIT)
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
        self.server.ended.wait(WAIT)

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
        assert server.asked.wait(WAIT)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        seconds = seconds_to_end(processes)
        for process in processes:
            _, err = process.communicate()
            assert process.returncode == 75, err
            assert "Traceback" not in err
        print(f"| data download | {count} | 75 | {seconds:.1f} s |")
        assert seconds < BOUND
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
    assert summary_of(tmp_path)["status"] == "preempted"
