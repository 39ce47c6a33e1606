"""Several processes over gloo: one of them is killed, stopped, or told to stop."""

import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.timed

LONG = ("+experiment=smoke", "train.epochs=400", "train.steps_per_dispatch=1", "run.dir=run")
FAST = (
    "train.global_batch_size=48",
    "cluster.heartbeat_timeout_seconds=4",
    "checkpoint.every_epochs=2",
)


def finish(process, timeout):
    _, err = process.communicate(timeout=timeout)
    return process.returncode, err


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_and_the_others_end(trainer, victim):
    processes = trainer.start_all(3, *LONG, *FAST)
    trainer.wait_for_step(100)
    processes[victim].kill()
    began = time.monotonic()
    for index, process in enumerate(processes):
        code, err = finish(process, timeout=14)
        if index != victim:
            assert code == 75, err
            assert f"lost process {victim}" in err
            assert f"pid {processes[victim].pid}" in err
    assert time.monotonic() - began < 14


def test_a_process_that_stands_still_is_named_and_the_others_end(trainer, tmp_path):
    processes = trainer.start_all(3, *LONG, *FAST)
    trainer.wait_for_step(100)
    processes[2].send_signal(signal.SIGSTOP)
    for process in processes[:2]:
        code, err = finish(process, timeout=14)
        assert code == 75
        assert "lost process 2" in err
        assert f"pid {processes[2].pid}" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "process 2" in summary["error"]


def test_a_hang_is_ended_with_the_stacks_of_all_threads(trainer, tmp_path):
    hang = ("cluster.heartbeat_timeout_seconds=90", "cluster.hang_timeout_seconds=15")
    processes = trainer.start_all(2, *LONG, *hang)
    trainer.wait_for_step(100)
    processes[1].send_signal(signal.SIGSTOP)  # process 0 waits for it in a collective
    code, err = finish(processes[0], timeout=45)
    processes[1].send_signal(signal.SIGCONT)
    assert code == 75, err
    assert "no step was completed for 15 s" in err
    stacks = (tmp_path / "run" / "hang-process-0.txt").read_text()
    assert "loop.py" in stacks
    assert stacks.count("Thread 0x") > 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert finish(processes[1], timeout=30)[0] != 0


@pytest.mark.parametrize("count", [1, 2])
def test_a_file_that_hangs_ends_every_process_with_its_stacks(trainer, tmp_path, count):
    """A pipe that nobody writes to stands for a file on a server that is gone."""
    for process in trainer.start_all(count, "+experiment=smoke", "run.dir=run"):
        assert finish(process, timeout=60)[0] == 0
    record = tmp_path / "run" / "checkpoints" / "126" / "_CHECKPOINT_METADATA"
    record.unlink()
    os.mkfifo(record)
    hang = ("+experiment=smoke", "run.dir=run", "cluster.hang_timeout_seconds=6")
    for index, process in enumerate(trainer.start_all(count, *hang)):
        code, err = finish(process, timeout=60)
        assert code == 75, err
        assert "no step was completed for 6 s" in err
        assert "in phase restore" in err
        stacks = (tmp_path / "run" / f"hang-process-{index}.txt").read_text()
        assert "loop.py" in stacks
        assert stacks in err


def test_a_run_directory_that_hangs_does_not_keep_a_process_that_hangs(trainer, tmp_path):
    hang = ("cluster.heartbeat_timeout_seconds=90", "cluster.hang_timeout_seconds=6")
    processes = trainer.start_all(2, *LONG, *hang)
    trainer.wait_for_step(100)
    os.mkfifo(tmp_path / "run" / "hang-process-0.txt")
    processes[1].send_signal(signal.SIGSTOP)
    code, err = finish(processes[0], timeout=6 + 1 + 5 + 5)
    assert code == 75
    assert "no step was completed for 6 s" in err
    assert "loop.py" in err


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_process_stops_all_at_the_same_step(trainer, tmp_path, told):
    processes = trainer.start_all(2, *LONG, devices=2)
    trainer.wait_for_step(100)
    processes[told].send_signal(signal.SIGTERM)
    for process in processes:
        code, err = finish(process, timeout=20)
        assert code == 75, err
        assert "Traceback" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "preempted"
    processes = trainer.start_all(2, *LONG, "train.epochs=30", "optim.schedule=constant", devices=2)
    for process in processes:
        assert finish(process, timeout=60)[0] == 78  # begun with another schedule


def test_missing_data_ends_all_with_the_code_for_it(trainer):
    missing = ("data=mnist", "data.download=false", "data.cache_dir=none")
    for process in trainer.start_all(2, "+experiment=smoke", "run.dir=run", *missing):
        code, err = finish(process, timeout=60)
        assert code == 65, err
        assert "Traceback" not in err
