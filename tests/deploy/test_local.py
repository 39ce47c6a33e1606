"""`scripts/local N`: several processes on this machine, as its users start them."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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


def wait_for_training(tmp_path):
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def gone(pids):
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_processes_train_one_run(local, tmp_path):
    """In the shell of an allocation, in a folder with another `trainer`, by a relative venv."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").write_text("raise SystemExit('the wrong trainer')")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    venv = os.path.relpath(sys.prefix, ROOT)
    job = ("2", "+experiment=smoke", "run.dir=run")
    code, _, err = finish(local(*job, TRAINER_VENV=venv, **slurm))
    assert code == 0, err
    assert "[0] 2 processes" in err
    assert "test accuracy" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["processes"] == 2


def test_the_one_that_fails_is_shown_and_the_rest_ended(local, tmp_path):
    process = local("2", "+experiment=smoke", "run.dir=run", "train.epochs=100000")
    wait_for_training(tmp_path)
    ranks = children(process)
    os.kill(int(ranks[1]), signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 137, err
    assert "process 1 ended by signal SIGKILL" in out
    assert "exit codes by process: [75, -9]" in err
    assert "lost process 1" in err
    assert gone(ranks)


@pytest.mark.parametrize(("count", "number"), [("2", signal.SIGTERM), ("1", signal.SIGHUP)])
def test_a_signal_is_passed_on(local, tmp_path, count, number):
    process = local(count, "+experiment=smoke", "run.dir=run", "train.epochs=100000")
    wait_for_training(tmp_path)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 75, err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "preempted"


def test_a_reader_that_goes_away_ends_the_run_saved(local, tmp_path):
    process = local("2", "+experiment=smoke", "run.dir=run", "train.epochs=100000")
    process.stderr.readline()
    process.stderr.close()
    process.stderr = None
    assert process.wait(60) == 75
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "preempted"


def test_no_process_outlives_the_one_that_started_them(local):
    process = local("2", "+experiment=smoke", "run.dir=run", "train.epochs=100000")
    ranks = []
    while len(ranks) < 2 and process.poll() is None:
        ranks = children(process)
    process.kill()
    assert len(ranks) == 2
    assert gone(ranks)


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


def test_processes_without_their_gpus_do_not_train_on_the_cpu(local):
    code, _, err = finish(
        local("2", "+experiment=smoke", CUDA_VISIBLE_DEVICES="4,5", JAX_PLATFORMS="")
    )
    assert code == 78
    assert "1 GPUs expected (cluster.gpus_per_process=1), but jax sees 0" in err
    assert "(CUDA_VISIBLE_DEVICES=4," in err


@pytest.mark.parametrize(
    ("visible", "shares"),
    [("-1", [None, None]), ("", [None, None]), ("3,1,-1,2", ["3", "1"]), ("0,1", ["0", "1"])],
)
def test_only_visible_gpus_are_shared_out(visible, shares):
    script = runpy.run_path(str(ROOT / "scripts" / "local"), run_name="local")
    assert script["shares_of_gpus"](2, {"CUDA_VISIBLE_DEVICES": visible}) == shares


def test_the_gpus_are_expected_wherever_the_options_begin():
    expecting = runpy.run_path(str(ROOT / "scripts" / "local"), run_name="local")["expecting"]
    gpus = "cluster.gpus_per_process=2"
    assert expecting(2, ["+experiment=mlp", "a=b"]) == [gpus, "+experiment=mlp", "a=b"]
    assert expecting(2, ["doctor", "a=b"]) == ["doctor", gpus, "a=b"]
