"""`runs` tells how runs ended, whatever state their files were left in."""

import json
import signal
import time

import pytest
from support.trained_runs import copy, edit

from trainer.commands import runs
from trainer.selftest import inspect
from trainer.tracking import metrics
from trainer.tracking.runs import last_summary

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_killed_then_running_then_preempted(trainer, tmp_path, listed):
    job = ("+experiment=smoke", "run.dir=runs/a", "train.epochs=100000", "train.log_every_steps=10")
    job += ("train.pictures_every_epochs=null",)
    first = trainer.start(*job, "checkpoint.every_steps=200")
    trainer.wait_for_step(360, "runs/a")
    run = listed(tmp_path / "runs")["a"]
    assert (run["status"], run["resumable"], run["note"]) == ("running", False, None)
    assert run["steps"] >= 360
    assert 0 < run["score"] <= 1
    assert run["test_accuracy"] is None
    first.kill()
    first.communicate()
    killed = listed(tmp_path / "runs")["a"]
    assert (killed["status"], killed["resumable"]) == ("unknown", True)
    assert killed["steps"] >= run["steps"]
    assert "without a summary" in killed["note"]
    reached = metrics.read(tmp_path / "runs" / "a" / "metrics.jsonl")[-1]["step"]
    resumed = inspect.committed(tmp_path / "runs" / "a")[-1]

    second = trainer.start(*job)
    account = tmp_path / "runs" / "a" / "goodput.json"
    while json.loads(account.read_text())["starts"] < 2:
        assert second.poll() is None
        time.sleep(0.01)
    second.send_signal(signal.SIGTERM)
    assert second.wait(240) == 75
    run = listed(tmp_path / "runs")["a"]
    assert (run["status"], run["resumable"]) == ("preempted", True)
    assert run["newest_checkpoint"] == run["steps"]
    # All steps beyond the checkpoint were done again; the log knows them to within a dispatch.
    assert json.loads(account.read_text())["lost_steps"] == pytest.approx(reached - resumed, abs=35)


def test_a_summary_is_outdated_once_a_later_start_has_begun(smoke_run, tmp_path):
    run = copy(smoke_run, tmp_path / "run")
    written = last_summary(run)
    assert written == json.loads((run / "summary.json").read_text())
    # Also where the clock of that start was wrong.
    edit(run / "environment.json", started="2020-01-01T00:00:00+00:00")
    assert last_summary(run) == {}
    del written["environment"]  # as an older version wrote it: nobody can tell
    (run / "summary.json").write_text(json.dumps(written))
    assert last_summary(run) == written


@pytest.mark.parametrize("name", ["summary.json", "environment.json"])
@pytest.mark.parametrize("text", ["", "null", '{"status": "compl'])
def test_half_written_files(smoke_run, tmp_path, listed, name, text):
    run = copy(smoke_run, tmp_path / "run")
    (run / name).write_text(text)
    (result,) = listed(tmp_path).values()
    assert result["test_accuracy"] is not None  # from metrics.jsonl, if not from the summary
    assert result["newest_checkpoint"] == 114
    if name == "summary.json":
        assert result["status"] == "unknown"
        assert "summary" in result["note"]


def test_folders_that_hold_next_to_nothing(tmp_path, listed):
    (tmp_path / "begun" / ".hydra").mkdir(parents=True)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "run.lock").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "torn" / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    result = listed(tmp_path)
    assert set(result) == {"begun", "locked", "torn"}
    assert {run["status"] for run in result.values()} == {"unknown"}
    assert not any(run["resumable"] for run in result.values())


def test_a_folder_of_runs_that_is_a_run_too_hides_none(tmp_path):
    for name in (".", "mlp/first", "checkpoints/5"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    listed = {str(path.relative_to(tmp_path)) for path in runs.find(tmp_path)}
    assert listed == {".", "mlp/first"}


def test_runs_behind_links_are_found_once(tmp_path):
    (tmp_path / "disk" / "big" / "checkpoints").mkdir(parents=True)
    (tmp_path / "disk" / "sub" / "deep" / ".hydra").mkdir(parents=True)
    (tmp_path / "disk" / "sub" / "up").symlink_to(tmp_path / "disk")
    runs_ = tmp_path / "runs"
    (runs_ / "mlp" / "own" / "checkpoints").mkdir(parents=True)
    (runs_ / "mlp" / "again").symlink_to("own")
    (runs_ / "mlp" / "big").symlink_to(tmp_path / "disk" / "big")
    (runs_ / "broken").symlink_to(tmp_path / "gone")
    (runs_ / "root").symlink_to(runs_)
    (runs_ / "smoke").symlink_to(tmp_path / "disk" / "sub")
    result = {str(path.relative_to(runs_)) for path in runs.find(runs_)}
    assert result == {"mlp/own", "mlp/big", "smoke/deep"}
    assert list(runs.find(runs_ / "mlp" / "again")) == [runs_ / "mlp" / "again"]


def test_what_cannot_be_read(smoke_run, tmp_path, listed):
    run = copy(smoke_run, tmp_path / "run")
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()  # root may read every file, but no folder as one
    assert set(listed(tmp_path)) == {"run"}
