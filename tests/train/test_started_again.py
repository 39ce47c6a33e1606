"""A job that is started again in its run directory resumes, or is refused and nothing is lost."""

import json
import re
import shutil
import signal
import time

import pytest
from support.in_process import CONSTANT, SMOKE, summary_of, train
from support.trained_runs import copy, everything

from trainer.commands import train as train_command
from trainer.config.compose import compose
from trainer.job.errors import EXIT_COMPLETED
from trainer.job.signals import StopRequest
from trainer.train.job import is_finished


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


def test_checkpoints_all_damaged_end_with_65_and_nothing_is_overwritten(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    run = tmp_path / "run"
    older, newer = sorted((run / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    (older / "record.json").unlink()
    (newer / "commit_success.txt").unlink()
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    moved = {folder: folder.with_name(f"bad-{folder.name}.0") for folder in (older, newer)}
    for _ in range(2):  # a second start does not start over either
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


def test_fewer_epochs_than_are_done_are_refused(tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    done = train(tmp_path, *SMOKE, *CONSTANT, "train.epochs=1")
    assert done.returncode == 78
    assert "has done 114, 2 epochs" in done.stderr


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
