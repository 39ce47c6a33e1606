"""`scripts/local N`: several processes on this machine, as its users start them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def local(tmp_path):
    """Starts scripts/local with the environment that runs the tests."""
    started = []

    def start(*arguments, **environ):
        given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            [ROOT / "scripts" / "local", *arguments],
            cwd=tmp_path,
            env={**given, "TRAINER_VENV": sys.prefix, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process):
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def test_two_processes_train_one_run(local, tmp_path):
    code, _, err = finish(local("2", "+experiment=smoke", "run.dir=run"))
    assert code == 0, err
    assert "[0] 2 processes" in err
    assert "test accuracy" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["processes"] == 2


def test_the_one_that_fails_is_shown_and_the_rest_ended(local, tmp_path):
    process = local("2", "+experiment=smoke", "run.dir=run", "train.epochs=100000")
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 137, err
    assert "process 1 ended by signal SIGKILL" in out
    assert "exit codes by process: [75, -9]" in err
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_signal_is_passed_on(local, tmp_path):
    process = local("2", "+experiment=smoke", "run.dir=run", "train.epochs=100000")
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    code, _, err = finish(process)
    assert code == 75, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "preempted"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("two",), "number of processes comes first"),
        (("0",), "number of processes comes first"),
    ],
)
def test_wrong_numbers_are_refused(local, arguments, told):
    code, _, err = finish(local(*arguments))
    assert code == 78
    assert told in err


def test_gpus_are_shared_out_or_refused(local):
    code, _, err = finish(local("3", CUDA_VISIBLE_DEVICES="0,1", JAX_PLATFORMS="cuda"))
    assert code == 78
    assert "3 processes do not divide over 2 GPUs" in err
