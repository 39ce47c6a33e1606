"""How a job ends: what is refused, what is reported, and that nothing is lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import idx_files
from support.harm import own_disk
from support.in_process import summary_of, train
from support.trained_runs import copy, everything

from trainer.commands import train as train_command
from trainer.commands import verify
from trainer.config.compose import compose, quoted
from trainer.job import directory
from trainer.job.errors import EXIT_COMPLETED
from trainer.job.signals import StopRequest
from trainer.train.job import is_finished

ROOT = Path(__file__).parents[2]
SMOKE = ("+experiment=smoke", "run.dir=run", "train.pictures_every_epochs=null")
CONSTANT = ("optim.schedule=constant",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with a constant schedule, to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder, *SMOKE, *CONSTANT).returncode == 0
    return folder / "run"


def test_options_that_would_make_it_another_training_are_refused_and_named(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    changes = {
        "optim.lr": (0.05, 0.01),
        "optim.momentum": (0.9, 0.5),
        "optim.schedule": ("constant", "warmup_linear"),
        "model.hidden_sizes": ([64], [32]),
        "run.seed": (0, 3),
        "train.global_batch_size": (64, 32),
        "data.shuffle": (True, False),
        "parallel.virtual_shards": (None, 2),
    }
    overrides = [f"{option}={json.dumps(new)}" for option, (_, new) in changes.items()]
    done = train(tmp_path, *SMOKE, *overrides)
    assert done.returncode == 78
    for option, (old, new) in changes.items():
        assert f"{option}: {old} in the checkpoint, {new} in this configuration" in done.stderr
    assert "run.name" in done.stderr
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert {p for p in after if after[p] != before.get(p)} <= {tmp_path / "run" / "run.lock"}


def test_what_does_not_change_the_training_is_accepted(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    done = train(
        tmp_path,
        *SMOKE,
        *CONSTANT,
        "train.epochs=3",
        "train.steps_per_dispatch=5",
        "train.log_every_steps=7",
        "checkpoint.keep_last=1",
        "parallel.devices=2",
    )
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path)["resumed_from_step"] == 114
    assert summary_of(tmp_path)["steps"] == 171


def test_a_step_that_is_not_finite_ends_the_run_with_its_state_saved(trainer, tmp_path):
    bad = (*SMOKE, *CONSTANT, "optim.lr=1e9", "train.steps_per_dispatch=5")
    for process in trainer.start_all(2, *bad):
        _, err = process.communicate(timeout=240)
        assert process.returncode == 70, err
        assert "not finite" in err
        assert "Traceback" not in err
    summary = summary_of(tmp_path)
    assert summary["status"] == "failed"
    message = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert message["step"] == summary["steps"] + 1
    assert len(set(message["examples"])) == 64
    assert set(message["gradient_norms"]) == {
        f"{i}/{name}" for i in range(2) for name in ("kernel", "bias")
    }
    assert message["weights_finite"]
    assert (tmp_path / "run" / "checkpoints" / str(summary["steps"])).is_dir()


def test_a_step_that_was_not_finite_is_told_though_its_file_cannot_be_written(tmp_path):
    (tmp_path / "run" / "nonfinite.json").mkdir(parents=True)
    done = train(tmp_path, *SMOKE, *CONSTANT, "optim.lr=1e9")
    assert done.returncode == 70, done.stderr
    assert "not finite" in done.stderr
    assert "nonfinite.json cannot be written (Is a directory)" in done.stderr
    assert summary_of(tmp_path)["status"] == "failed"


def test_an_update_that_is_not_finite_can_be_skipped_and_is_counted(tmp_path):
    done = train(tmp_path, *SMOKE, *CONSTANT, "optim.lr=1e9", "train.on_nonfinite=skip")
    assert done.returncode == 0, done.stderr
    assert summary_of(tmp_path)["skipped_steps"] > 0
    assert "its update is dropped" in done.stderr
    skipped = summary_of(tmp_path)["skipped_steps"]
    assert (
        train(tmp_path, *SMOKE, *CONSTANT, "optim.lr=1e9", "train.on_nonfinite=skip").returncode
        == 0
    )
    assert summary_of(tmp_path)["skipped_steps"] == skipped  # kept over restarts


def test_a_second_job_on_a_run_directory_is_refused(trainer, tmp_path):
    first = trainer.start(*SMOKE, "train.epochs=1000")
    trainer.wait_for_step(100)
    second = trainer(*SMOKE, "train.epochs=1000")
    assert second.returncode == 78
    assert f"process {first.pid} on host" in second.stderr
    assert re.search(r" since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", second.stderr)
    assert "run.name" in second.stderr
    first.kill()
    first.communicate()
    third = trainer.start(*SMOKE, "train.epochs=1000")  # a dead job's lock blocks nobody
    while str(third.pid) not in (tmp_path / "run" / "run.lock").read_text():
        assert third.poll() is None
        time.sleep(0.02)
    third.send_signal(signal.SIGTERM)
    assert third.wait(timeout=240) == 75


def test_images_of_one_colour_are_refused(tmp_path):
    idx_files.write(tmp_path / "data", 100, 100, pixels=0)
    done = train(tmp_path, "+experiment=smoke", "data=idx", "data.root=data", "run.dir=run")
    assert done.returncode == 65, done.stderr
    assert "all pixels of the training images are 0" in done.stderr


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


def test_the_speed_counts_images_and_not_the_padding_of_a_short_batch(tmp_path):
    done = train(tmp_path, *SMOKE, "train.global_batch_size=3000", "train.epochs=2")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["examples"] == 2 * 3600
    assert summary["examples_per_second"] == summary["examples"] / summary["train_seconds"]


def test_checkpoints_all_damaged_end_with_65_and_nothing_is_overwritten(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    run = tmp_path / "run"
    older, newer = sorted((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    (older / "record.json").unlink()
    (newer / "commit_success.txt").unlink()
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    moved = {folder: folder.with_name(f"bad-{folder.name}.0") for folder in (older, newer)}
    for _ in range(2):  # a second start does not begin anew either
        done = train(tmp_path, *SMOKE, *CONSTANT, "train.epochs=3")
        assert done.returncode == 65
        assert "none of the checkpoints" in done.stderr
        assert set((run / "checkpoints").iterdir()) == set(moved.values())
    for path, data in kept.items():
        if path.name not in ("run.lock", "summary.json"):
            for before, after in moved.items():
                if path.is_relative_to(before):
                    path = after / path.relative_to(before)
            assert path.read_bytes() == data, path


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


def test_fewer_epochs_than_are_done_are_refused(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    done = train(tmp_path, *SMOKE, *CONSTANT, "train.epochs=1")
    assert done.returncode == 78
    assert "has done 114, 2 epochs" in done.stderr


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


def test_a_process_of_a_completed_job_that_is_started_again_waits_for_nobody(
    smoke_run, tmp_path, monkeypatch, capsys
):
    job = ["+experiment=smoke", "run.dir=smoke"]
    copy(smoke_run, tmp_path / "smoke")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    before = everything(tmp_path)
    assert train_command.main(job, StopRequest()) == EXIT_COMPLETED
    assert f"{tmp_path / 'smoke'} is completed, with these options" in capsys.readouterr().err
    assert everything(tmp_path) == before
    # With other options it trains, so it has to wait.
    (longer,) = compose([*job, "train.epochs=3"])
    assert not is_finished(longer)
