"""`python -m trainer local N`: several processes on this machine, as its users start them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.program import CACHE

from trainer.commands.local import expecting, shares_of_gpus

ROOT = Path(__file__).parents[2]
# In the place of python: a trainer that only shows what it got, and ends with 75 when asked to.
STUB = """#!/bin/bash
trap 'exit 75' TERM INT USR1
echo "GPUs $CUDA_VISIBLE_DEVICES, of $JAX_NUM_PROCESSES: $*"
while [ ! -e end ]; do [ -e talk ] && echo more; sleep 0.05; done
"""


@pytest.fixture
def local(tmp_path):
    """Starts scripts/local, or another program, with the environment that runs the tests."""
    started = []

    def start(*arguments, program=(ROOT / "scripts" / "local",), **environ):
        given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            [*program, *arguments],
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


@pytest.fixture
def stubs(local, tmp_path):
    """Starts the command with stubs in the place of python, and waits until they run."""
    stub = tmp_path / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    code = f"import sys, trainer.__main__; sys.executable = {str(stub)!r}; trainer.__main__.main()"
    program = (sys.executable, "-c", code, "local")

    def start(count, *arguments, **environ):
        environ["PYTHONPATH"] = str(ROOT)
        process = local(count, *arguments, program=program, **environ)
        lines = sorted(process.stdout.readline() for _ in range(int(count)))
        return process, lines

    return start


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def gone(pids):
    deadline = time.monotonic() + 240
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_two_processes_train_one_run(local, tmp_path):
    """In the shell of an allocation, in a folder with another `trainer`, by a relative venv."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").write_text("raise SystemExit('the wrong trainer')")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
    venv = os.path.relpath(sys.prefix, ROOT)
    job = ("2", "+experiment=smoke", "run.dir=run", "train.epochs=1")
    job += ("train.pictures_every_epochs=null",)
    code, _, err = finish(local(*job, TRAINER_VENV=venv, TRAINER_CACHE_DIR=str(CACHE), **slurm))
    assert code == 0, err
    assert "[0] 2 processes" in err
    assert "test accuracy" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["processes"] == 2


def test_a_failed_process_is_shown_and_the_others_are_asked_to_end(stubs):
    process, _ = stubs("2", "+experiment=smoke")
    ranks = children(process)
    os.kill(int(ranks[1]), signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 137, err
    assert "process 1 ended by signal SIGKILL\n    GPUs " in out
    assert "exit codes by process: [75, -9]" in err
    assert gone(ranks)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_passed_on(stubs, number):
    process, _ = stubs("2")
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 75, err
    assert "exit codes by process: [75, 75]" in err


def test_all_are_asked_to_end_when_the_reader_goes_away(stubs, tmp_path):
    process, _ = stubs("2")
    process.stdout.close()
    process.stdout = None
    (tmp_path / "talk").touch()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75
    assert "exit codes by process: [75, 75]" in err


def test_no_process_outlives_the_one_that_started_them(stubs):
    process, _ = stubs("2")
    ranks = children(process)
    process.kill()
    assert len(ranks) == 2
    assert gone(ranks)


@pytest.mark.parametrize("number", ["two", "0"])
def test_wrong_numbers_are_refused(local, number):
    code, _, err = finish(local(number))
    assert code == 78
    assert "number of processes comes first" in err


def test_gpus_that_do_not_divide_are_refused(local):
    code, _, err = finish(local("3", CUDA_VISIBLE_DEVICES="0,1", JAX_PLATFORMS="cuda"))
    assert code == 78
    assert "3 processes do not divide over 2 GPUs" in err


def test_each_process_gets_its_gpus_and_expects_them(stubs, tmp_path):
    process, lines = stubs("2", "+experiment=smoke", CUDA_VISIBLE_DEVICES="4,5", JAX_PLATFORMS="")
    expected = "-m trainer cluster.gpus_per_process=1 +experiment=smoke\n"
    assert lines == [f"[{i}] GPUs {4 + i}, of 2: {expected}" for i in (0, 1)]
    (tmp_path / "end").touch()
    assert finish(process)[0] == 0


@pytest.mark.parametrize(
    ("visible", "shares"),
    [("-1", [None, None]), ("", [None, None]), ("3,1,-1,2", ["3", "1"]), ("0,1", ["0", "1"])],
)
def test_only_visible_gpus_are_shared_out(visible, shares):
    assert shares_of_gpus(2, {"CUDA_VISIBLE_DEVICES": visible}) == shares


def test_the_gpus_are_expected_wherever_the_options_begin():
    gpus = "cluster.gpus_per_process=2"
    assert expecting(2, ["+experiment=mlp", "a=b"]) == [gpus, "+experiment=mlp", "a=b"]
    assert expecting(2, ["doctor", "a=b"]) == ["doctor", gpus, "a=b"]
