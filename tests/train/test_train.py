"""The whole trainer: what a run leaves, its data, several processes, other versions."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from support import idx_files
from support.in_process import SMOKE, points_of, summary_of, train

from trainer.job.processes import environment, free_address

KEYS = {
    "status",
    "experiment",
    "dataset",
    "steps",
    "epochs",
    "validation_accuracy",
    "validation_loss",
    "test_accuracy",
    "test_loss",
    "examples_per_second",
    "train_seconds",
    "wall_seconds",
    "devices",
    "processes",
    "platform",
    "global_batch_size",
    "resumed_from_step",
    "weights_sha256",
}


def test_a_run_leaves_what_the_contract_names(tmp_path):
    done = train(tmp_path, *SMOKE)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} >= {
        ".hydra",
        "environment.json",
        "tensorboard",
        "metrics.jsonl",
        "checkpoints",
        "summary.json",
    }
    summary = summary_of(tmp_path)
    assert set(summary) >= KEYS
    assert summary["status"] == "completed"
    assert summary["steps"] == 2 * 57
    assert summary["epochs"] == 2
    assert summary["test_accuracy"] > 0.85
    assert summary["dataset"]["name"] == "mnist_5k"
    assert summary["resumed_from_step"] is None
    assert len(summary["weights_sha256"]) == 64
    points = points_of(tmp_path)
    assert [p["step"] for p in points if p["split"] == "train"] == [20, 40, 60, 80, 100]
    assert [p["step"] for p in points if p["split"] == "validation"] == [57, 114]
    assert points[-2]["accuracy"] == summary["validation_accuracy"]
    assert [p["step"] for p in points if p["split"] == "test"] == [114]  # once, at the end
    assert points[-1]["accuracy"] == summary["test_accuracy"]
    assert "\x1b" not in done.stderr
    assert re.search(r"^follow it with +python -m trainer dashboard \S", done.stderr, re.MULTILINE)
    assert "restore" not in done.stderr  # nothing was restored
    assert "+experiment=smoke" in (run / ".hydra" / "overrides.yaml").read_text()


def test_two_processes_train_as_one(trainer, tmp_path):
    assert train(tmp_path, *SMOKE, "parallel.devices=4").returncode == 0
    for process in trainer.start_all(2, *SMOKE, "run.dir=two", devices=2):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    one, two = summary_of(tmp_path), summary_of(tmp_path, "two")
    assert (two["processes"], two["devices"]) == (2, 4)
    assert abs(one["test_loss"] - two["test_loss"]) < 1e-3
    assert [p["step"] for p in points_of(tmp_path, "two")] == [
        p["step"] for p in points_of(tmp_path)
    ]
    first, second = points_of(tmp_path)[0], points_of(tmp_path, "two")[0]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    assert not (tmp_path / "runs").exists()


def test_without_data_it_says_where_it_looked_and_the_three_ways_out(tmp_path):
    done = train(
        tmp_path, "+experiment=mlp", "data.download=false", f"data.cache_dir={tmp_path}/none"
    )
    assert done.returncode == 65
    for message in (f"{tmp_path}/none", "data.root=", "data=mnist_5k"):
        assert message in done.stderr
    (run,) = (tmp_path / "runs" / "mlp").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"


def test_a_run_directory_that_cannot_be_made_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = train(tmp_path, "+experiment=smoke", "run.dir=file/run")
    assert done.returncode == 78
    assert "run.dir" in done.stderr


def test_the_real_data_set(tmp_path, mnist_dir):
    """Two epochs of the main job, from the four real files."""
    done = train(
        tmp_path,
        "+experiment=mlp",
        "train.epochs=2",
        f"data.root={mnist_dir.resolve()}",
        "run.dir=run",
    )
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["dataset"]["train_examples"] == 55_000
    assert summary["dataset"]["validation_examples"] == 5_000
    assert summary["dataset"]["test_examples"] == 10_000
    assert summary["test_accuracy"] > 0.975


def test_the_notebook_recipe_starts_as_the_notebook_did(tmp_path, mnist_dir):
    """An independent run of the recipe had a mean train loss of 1.0274 in its first epoch."""
    options = ("train.epochs=1", f"data.root={mnist_dir.resolve()}")
    done = train(tmp_path, "+experiment=mlp_notebook", *options)
    assert done.returncode == 0, done.stderr
    (loss,) = re.findall(r"epoch +1 .* loss +([0-9.]+)  test", done.stderr)
    assert float(loss) == pytest.approx(1.0274, rel=0.05)


def test_other_code_or_versions_on_resume_are_told(trainer, tmp_path):
    options = ("+experiment=smoke", "run.dir=run", "optim.schedule=constant")
    assert train(tmp_path, *options, "train.epochs=1").returncode == 0
    copy = tmp_path / "changed"
    shutil.copytree(Path(__file__).parents[2] / "trainer", copy / "trainer")
    shutil.copytree(Path(__file__).parents[2] / "conf", copy / "conf")
    with (copy / "trainer" / "tasks" / "mlp.py").open("a") as module:
        module.write("# another line\n")
    done = trainer(*options, "train.epochs=2", PYTHONPATH=str(copy))
    assert done.returncode == 0, done.stderr
    assert "resumes with other versions (trainer's source:" in done.stderr


def test_jax_variables_do_not_change_what_a_seed_means(trainer, tmp_path, smoke_run):
    others = {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
    assert trainer("+experiment=smoke", "run.dir=odd", **others).returncode == 0
    usual, odd = summary_of(smoke_run.parent, "smoke"), summary_of(tmp_path, "odd")
    assert odd["weights_sha256"] == usual["weights_sha256"]
    refused = trainer("+experiment=smoke", JAX_DISABLE_JIT="1")
    assert refused.returncode == 78
    assert "JAX_DISABLE_JIT is set" in refused.stderr


def test_a_last_update_that_is_not_finite_ends_the_run_so(tmp_path):
    odd = ("optim.lr=3e38", "optim.schedule=constant", "train.global_batch_size=3600")
    for _ in range(2):
        done = train(tmp_path, *SMOKE, "train.epochs=1", *odd)
        assert done.returncode == 70, done.stderr
        assert "step 1, the last: its update left weights whose loss" in done.stderr
    assert summary_of(tmp_path)["status"] == "failed"


def test_processes_with_other_data_are_refused(trainer, tmp_path):
    """Each finds what its own home directory has."""
    options = ("data=idx", "data.root=~/data", "data.pixel_mean=100", "data.pixel_std=50")
    address, started = free_address(), []
    for index in range(2):
        home = tmp_path / f"home-{index}"
        idx_files.write(home / "data", train=64 + index, test=10)
        environ = environment({"HOME": str(home)}, 2, index, address)
        arguments = ("+experiment=smoke", *options, "run.dir=run", "train.global_batch_size=16")
        started.append(trainer.start(*arguments, **environ))
    for process in started:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 65, err
        assert "process 1 loaded another data set (idx, SHA-256 " in err
        assert "Traceback" not in err


SLOW_TO_CLOSE = """
import time
from trainer.dashboard.dashboard import Dashboard
close = Dashboard.__exit__
def slow(self, *error):
    time.sleep(9)
    close(self, *error)
Dashboard.__exit__ = slow
from trainer.__main__ import main
main()
"""


@pytest.mark.timed
def test_a_process_that_waits_for_the_last_drawings_is_not_lost(trainer, tmp_path):
    arguments = ("+experiment=smoke", "run.dir=run", "cluster.heartbeat_timeout_seconds=4")
    program = (sys.executable, "-c", SLOW_TO_CLOSE)
    for process in trainer.start_all(2, *arguments, program=program):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert summary_of(tmp_path)["status"] == "completed"
