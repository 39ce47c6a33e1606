"""A run directory that is full, read-only, taken, silent or gone ends the job with its reason."""

import contextlib
import json
import shutil
import sys

import numpy as np
import pytest
from support.harm import own_disk
from support.in_process import SMOKE


def test_a_run_directory_that_does_not_answer_is_told(trainer):
    hanging = """
import time
from trainer.job import directory
from trainer.job.errors import EXIT_COMPLETED
from trainer.job.signals import StopRequest
from trainer.__main__ import main
directory.create = lambda directory: time.sleep(600)
main()
"""
    limits = ("cluster.startup_timeout_seconds=2", "cluster.hang_timeout_seconds=2")
    process = trainer.start(*SMOKE, *limits, program=(sys.executable, "-c", hanging))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    assert "the run directory did not answer within 4 s" in err


def test_a_full_disk_is_told_and_the_checkpoint_before_it_stays_intact(trainer, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with own_disk(run, "size=3m"):
        big = (*SMOKE, "model.hidden_sizes=[128]", "train.epochs=300")
        done = trainer(*big, "checkpoint.max_failed_saves=1", "checkpoint.keep_last=100")
        assert done.returncode == 74, done.stderr
        assert "a checkpoint cannot be written" in done.stderr
        good = [p for p in (run / "checkpoints").iterdir() if p.name.isdecimal()]
        shutil.copytree(run, tmp_path / "copy", symlinks=True)
    assert good
    assert np.isfinite(json.loads((tmp_path / "copy" / "goodput.json").read_text())["goodput"])


def test_a_read_only_run_directory_is_told(trainer, tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    with own_disk(root, "ro"):
        done = trainer("+experiment=smoke", "run.root=runs", "run.name=first")
    assert done.returncode == 74, done.stderr
    assert "Read-only file system" in done.stderr
    assert str(root) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("free_kib", [0, 16])
def test_a_disk_that_is_full_at_the_start_is_told(trainer, tmp_path, free_kib):
    root = tmp_path / "runs"
    root.mkdir()
    with own_disk(root, "size=128k"):
        (root / "first").mkdir()
        (root / "filler").write_bytes(bytes((124 - free_kib) << 10))
        if not free_kib:
            with contextlib.suppress(OSError):
                (root / "rest").write_bytes(bytes(8 << 10))
        done = trainer("+experiment=smoke", "run.dir=runs/first")
    assert done.returncode == 74, done.stderr
    assert "No space left on device" in done.stderr
    assert str(root) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "processes"),
    [("tensorboard", 2), (".hydra", 1), ("checkpoints", 2)],
)
def test_a_file_in_the_place_of_a_folder_ends_all_with_78(trainer, tmp_path, name, processes):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("a file")
    for process in trainer.start_all(processes, *SMOKE):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 78, err
        assert f"run/{name} cannot be written" in err
        assert "run.dir=DIR" in err
        assert "Traceback" not in err


def test_a_name_that_the_file_system_refuses_ends_all_with_78(trainer):
    for process in trainer.start_all(2, "+experiment=smoke", f"run.root={'x' * 300}"):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 78, err
        assert "File name too long" in err
        assert "run.root=DIR" in err
        assert "Traceback" not in err


@pytest.mark.parametrize("replaced", [False, True], ids=["moved", "replaced by a file"])
def test_a_run_directory_that_vanishes_ends_the_run(trainer, tmp_path, replaced):
    process = trainer.start(*SMOKE, "train.epochs=100000", "checkpoint.max_failed_saves=1")
    trainer.wait_for_step(4 * 57)
    shutil.move(tmp_path / "run", tmp_path / "away")
    if replaced:
        (tmp_path / "run").write_text("a file in its place")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 74, err
    assert "a checkpoint cannot be written" in err
    assert "Traceback" not in err
    assert any(p.name.isdecimal() for p in (tmp_path / "away" / "checkpoints").iterdir())
