"""Several processes over gloo: one of them is killed, stopped, or asked to stop."""

import json
import os
import signal
import sys

LONG = ("+experiment=smoke", "train.epochs=400", "train.steps_per_dispatch=1", "run.dir=run")
LONG += ("train.pictures_every_epochs=null",)
FAST = (
    "train.global_batch_size=48",
    "cluster.heartbeat_timeout_seconds=6",
    "checkpoint.every_epochs=2",
)
# Without our heartbeat and watchdog jax would abort the processes (SIGABRT) or hang for ever: the
# exit codes and messages show that ours came first. How fast they are is not tested.
LIMIT = 120


def finish(process):
    _, err = process.communicate(timeout=LIMIT)
    return process.returncode, err


def test_process_0_is_killed_and_named_and_the_others_end(trainer):
    """tests/deploy/test_network.py kills another one."""
    processes = trainer.start_all(3, *LONG, *FAST)
    trainer.wait_for_step(100)
    processes[0].kill()
    for process in processes[1:]:
        code, err = finish(process)
        assert code == 75, err
        assert "lost process 0" in err
        assert f"pid {processes[0].pid}" in err


def test_a_stopped_process_is_named_and_the_other_ends(trainer, tmp_path):
    processes = trainer.start_all(2, *LONG, *FAST)
    trainer.wait_for_step(100)
    processes[1].send_signal(signal.SIGSTOP)
    code, err = finish(processes[0])
    assert code == 75
    assert "lost process 1" in err
    assert f"pid {processes[1].pid}" in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "process 1" in summary["error"]


def test_a_hang_is_ended_with_the_stacks_of_all_threads(trainer, tmp_path):
    hang = ("cluster.heartbeat_timeout_seconds=90", "cluster.hang_timeout_seconds=6")
    processes = trainer.start_all(2, *LONG, *hang)
    trainer.wait_for_step(100)
    stacks = tmp_path / "run" / "hang-process-0.txt"
    processes[1].send_signal(signal.SIGSTOP)  # process 0 waits for it in a collective
    code, err = finish(processes[0])
    processes[1].send_signal(signal.SIGCONT)
    assert code == 75, err
    assert "no step was completed for 6 s" in err
    assert "loop.py" in err
    assert "loop.py" in stacks.read_text()
    assert stacks.read_text().count("Thread 0x") > 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert finish(processes[1])[0] != 0


HANGS = """
import pathlib, sys, time
from trainer.tracking.goodput import PhaseTimer
from trainer.job.exit import watchdog
say = lambda text: print(text, file=sys.stderr)
with watchdog(1.0, PhaseTimer(), pathlib.Path("stacks"), say):
    time.sleep(600)
"""


def test_a_hang_is_ended_though_its_stacks_cannot_be_written(trainer, tmp_path):
    """A pipe without a reader stands for a server that hangs."""
    os.mkfifo(tmp_path / "stacks")
    code, err = finish(trainer.start(program=(sys.executable, "-c", HANGS)))
    assert code == 75, err
    assert "hread 0x" in err
    assert "no step was completed for 1 s" in err


def test_a_file_that_hangs_ends_every_process_with_its_stacks(trainer, tmp_path):
    """A pipe that nobody writes to stands for a file on a server that is gone."""
    os.mkfifo(tmp_path / "images")
    (tmp_path / "mine.py").write_text("def load(options): return open('images').read()")
    hang = ("+experiment=smoke", "data=module", "data.module=mine.py", "run.dir=run")
    hang += ("cluster.hang_timeout_seconds=6",)
    for index, process in enumerate(trainer.start_all(2, *hang)):
        code, err = finish(process)
        assert code == 75, err
        assert "no step was completed for 6 s" in err
        assert "in phase startup" in err
        stacks = (tmp_path / "run" / f"hang-process-{index}.txt").read_text()
        assert "mine.py" in stacks
        assert stacks in err


def test_a_signal_to_one_process_stops_all_at_the_same_step(trainer, tmp_path):
    """Which of them is asked makes no difference: each step adds up what all were asked."""
    processes = trainer.start_all(2, *LONG, devices=2)
    trainer.wait_for_step(100)
    processes[1].send_signal(signal.SIGTERM)
    for process in processes:
        code, err = finish(process)
        assert code == 75, err
        assert "Traceback" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "preempted"


def test_missing_data_ends_all_with_the_code_for_it(trainer):
    missing = ("data=mnist", "data.download=false", "data.cache_dir=none")
    for process in trainer.start_all(2, "+experiment=smoke", "run.dir=run", *missing):
        code, err = finish(process)
        assert code == 65, err
        assert "Traceback" not in err
