"""What a job accepts, reports and refuses, in one process and in several."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import idx_files
from support.in_process import SMOKE, summary_of, train

from trainer.commands import verify
from trainer.config.compose import quoted
from trainer.job import directory
from trainer.job.signals import StopRequest

ROOT = Path(__file__).parents[2]


def test_images_of_one_colour_are_refused(tmp_path):
    idx_files.write(tmp_path / "data", 100, 100, pixels=0)
    done = train(tmp_path, "+experiment=smoke", "data=idx", "data.root=data", "run.dir=run")
    assert done.returncode == 65, done.stderr
    assert "all pixels of the training images are 0" in done.stderr


def test_the_speed_counts_images_and_not_the_padding_of_a_short_batch(tmp_path):
    done = train(tmp_path, *SMOKE, "train.global_batch_size=3000", "train.epochs=2")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["examples"] == 2 * 3600
    assert summary["examples_per_second"] == summary["examples"] / summary["train_seconds"]


def test_some_devices_of_a_process_may_be_left_idle(tmp_path):
    done = train(tmp_path, *SMOKE, "parallel.devices=3", "train.global_batch_size=60")
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path)["devices"] == 3


def test_pmap_is_refused_in_several_processes(trainer):
    for process in trainer.start_all(2, *SMOKE, "parallel.method=pmap"):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 78, err
        assert "parallel.method=pmap: works in one process only, and there are 2" in err


def test_too_large_a_model_is_told_as_such(trainer):
    codes = set()
    for process in trainer.start_all(2, *SMOKE, "model.hidden_sizes=[2000000000]"):
        _, err = process.communicate(timeout=240)
        assert "Traceback" not in err
        assert "out of memory" in err or "lost process" in err
        codes.add(process.returncode)
    assert 70 in codes
    assert codes <= {70, 75}  # 75: the other was faster


def test_an_evaluation_takes_no_more_than_the_split(tmp_path):
    done = train(tmp_path, *SMOKE, "train.eval_batch_size=1000000000")
    assert done.returncode == 0, done.stderr


SUSPENDED = """
import time, pathlib, sys
from trainer.tracking.goodput import PhaseTimer
from trainer.job.exit import watchdog
timer = PhaseTimer()
with watchdog(4.0, timer, pathlib.Path("stacks"), print):
    print("begun", flush=True)
    for _ in range(40):
        timer.alive()
        time.sleep(0.1)
print("done")
"""


def test_a_process_that_was_suspended_did_not_hang(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(7)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=240)[0] == "done\n"
    assert process.returncode == 0


def test_starts_in_the_same_second_have_directories_of_their_own(tmp_path):
    root = str(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        chosen = list(pool.map(lambda _: directory.choose(root, "smoke", None, None), range(8)))
    assert len(set(chosen)) == 8


@pytest.mark.parametrize("name", ["a b*{}", "100%#1?", "it's ü]", "size=[16,8]", "a\\b"])
def test_odd_paths_can_be_read_again(tmp_path, name):
    smoke = ("+experiment=smoke", "train.epochs=1", f"run.dir={quoted(name)}")
    assert train(tmp_path, *smoke).returncode == 0
    assert verify.main([str(tmp_path / name)], StopRequest()) == 0
