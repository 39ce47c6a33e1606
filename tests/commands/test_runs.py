"""`runs` lists how runs ended, whatever state they were left in."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.trained_runs import copy, everything

from trainer.commands import runs
from trainer.job import lock
from trainer.job.errors import EXIT_CONFIG, ConfigError
from trainer.job.signals import StopRequest
from trainer.selftest import inspect
from trainer.tracking import metrics
from trainer.tracking import runs as tracking_runs
from trainer.tracking.runs import last_summary

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def listed(capsys):
    """Runs the command with --json; returns the runs by the names of their folders."""

    def call(folder):
        assert runs.main([str(folder), "--json"], StopRequest()) == 0
        result = json.loads(capsys.readouterr().out)["runs"]
        return {run["directory"].rsplit("/", 1)[1]: run for run in result}

    return call


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_finished_run(smoke_run, listed):
    summary = json.loads((smoke_run / "summary.json").read_text())
    (run,) = listed(smoke_run.parent).values()
    assert run["status"] == "completed"
    assert run["test_accuracy"] == summary["test_accuracy"]
    assert run["examples_per_second"] == summary["examples_per_second"]
    assert (run["steps"], run["epochs"], run["dataset"]) == (114, 2, "mnist_5k")
    assert run["newest_checkpoint"] == 114
    assert (run["resumable"], run["note"]) == (False, None)
    assert run["updated"] == pytest.approx(summary["started"] + summary["wall_seconds"])


def test_the_table_has_the_newest_first(smoke_run, tmp_path, capsys):
    for age, name in enumerate(("young", "old", "older")):
        run = copy(smoke_run, tmp_path / "smoke" / name)
        started = json.loads((run / "summary.json").read_text())["started"]
        edit(run / "summary.json", started=started - age * 7200)
    edit(tmp_path / "smoke/old/summary.json", status="failed", error="\x1b[2Jno disk\nmore")
    assert runs.main([str(tmp_path)], StopRequest()) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    heads = ["run", "status", "validation", "test", "examples/s", "steps", "age", "resumable"]
    assert header.split() == heads
    assert [row.split()[0] for row in rows] == ["smoke/young", "smoke/old", "smoke/older"]
    summary = json.loads((smoke_run / "summary.json").read_text())
    accuracies = [f"{summary[f'{split}_accuracy']:.2%}" for split in ("validation", "test")]
    assert rows[0].split()[1:4] == ["completed", *accuracies]
    assert rows[1].split()[-7:-2] == ["114", "2", "h", "step", "114"]
    assert rows[1].endswith(" \N{REPLACEMENT CHARACTER}[2Jno disk")
    assert [row.split()[-1] for row in (rows[0], rows[2])] == ["no", "no"]


def test_a_task_without_an_accuracy_shows_what_it_is_ranked_by(tmp_path, listed, capsys):
    point = {"step": 40, "split": "validation", "time": 1.0, "loss": 0.25, "f1": 0.5}
    summary = {"status": "completed", "started": 1.0, "test_loss": 0.5, "test_f1": 0.7}
    summary |= {"validation_loss": 0.125, "validation_f1": 0.75}
    for name, best in (("by-loss", "loss:min"), ("by-f1", "f1:max"), ("at-work", None)):
        run = tmp_path / name
        (run / ".hydra").mkdir(parents=True)
        (run / "metrics.jsonl").write_text(json.dumps(point) + "\n")
        if best is not None:  # a start writes it at its end
            (run / "summary.json").write_text(json.dumps({**summary, "best": best}))
    assert runs.main([str(tmp_path)], StopRequest()) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    results = {row.split()[0]: row.split()[2:6] for row in rows}
    assert results["by-loss"] == ["loss", "0.1250", "loss", "0.5000"]
    assert results["by-f1"] == ["f1", "0.7500", "f1", "0.7000"]
    assert results["at-work"][:3] == ["loss", "0.2500", "-"]
    run = listed(tmp_path)["by-f1"]
    assert (run["test_accuracy"], run["best"], run["score"]) == (None, "f1:max", 0.75)
    assert (run["test_score"], run["test_loss"]) == (0.7, 0.5)


@pytest.mark.parametrize("set_to", [None, "", "elsewhere"])
def test_the_default_folder_is_that_of_training(smoke_run, tmp_path, monkeypatch, capsys, set_to):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINER_RUN_ROOT", raising=False)
    if set_to is not None:
        monkeypatch.setenv("TRAINER_RUN_ROOT", set_to)
    root = tmp_path / (set_to or "runs")
    copy(smoke_run, root / "smoke" / "a")
    assert runs.main(["--json"], StopRequest()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["directory"] == str(root)
    assert [run["directory"] for run in result["runs"]] == [str(root / "smoke" / "a")]


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
    found = {str(path.relative_to(tmp_path)) for path in runs.find(tmp_path)}
    assert found == {".", "mlp/first"}


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


def test_looking_changes_nothing_and_stops_no_job(smoke_run, tmp_path, listed):
    run = copy(smoke_run, tmp_path / "run")
    before = everything(tmp_path)
    with lock.hold(run):
        assert listed(tmp_path)["run"]["status"] == "running"
    assert listed(tmp_path)["run"]["status"] == "completed"
    after = everything(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"run/run.lock"}  # of hold()


def test_the_age_of_a_job_at_work_is_that_of_its_last_sign_of_life(smoke_run, tmp_path, capsys):
    run = copy(smoke_run, tmp_path / "run")
    *_, last = (run / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(last)["time"]
    with lock.hold(run):
        for changed, seen in ((logged - 5000, logged), (logged + 600, logged + 600)):
            os.utime(run, (changed, changed))
            assert tracking_runs.describe(run).updated == pytest.approx(seen)
        hours_ago = time.time() - 3 * 3600
        (run / "metrics.jsonl").write_text(json.dumps({**json.loads(last), "time": hours_ago}))
        os.utime(run, (hours_ago - 60, hours_ago - 60))
        assert runs.main([str(tmp_path)], StopRequest()) == 0
    assert re.search(r"run +running .* 3 h ", capsys.readouterr().out)


def test_a_name_that_the_terminal_cannot_show_is_no_error(smoke_run, trainer, tmp_path):
    copy(smoke_run, tmp_path / "runs" / "ラン")
    shown = trainer("runs", PYTHONIOENCODING="latin-1", PYTHONUTF8="1")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "??   completed" in shown.stdout


def test_a_job_may_start_while_somebody_looks(tmp_path):
    (tmp_path / lock.NAME).touch()
    looking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from trainer.job import lock\n"
            "print('looking', flush=True)\n"
            "while True: lock.held(Path(sys.argv[1]))",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert looking.stdout.readline() == "looking\n"
        for _ in range(200):
            with lock.hold(tmp_path):
                pass
    finally:
        looking.kill()
        looking.communicate()


def test_a_job_that_holds_the_lock_is_still_in_the_way(tmp_path):
    with (
        lock.hold(tmp_path),
        pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"),
        lock.hold(tmp_path),
    ):
        pass


def test_one_run_and_no_run(smoke_run, tmp_path, capsys):
    assert runs.main([str(smoke_run)], StopRequest()) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("smoke ")
    assert runs.main([str(tmp_path)], StopRequest()) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"no runs in {tmp_path}\n")
    with pytest.raises(ConfigError, match=r"DIR=.* is not a folder"):
        runs.main([str(tmp_path / "rnus")], StopRequest())


def test_the_command_line(trainer, smoke_run):
    done = trainer("runs", str(smoke_run.parent))
    assert (done.returncode, done.stderr) == (0, "")
    assert "completed" in done.stdout
    assert trainer("runs").returncode == EXIT_CONFIG  # there is no folder `runs`
    assert trainer("runs", "--jsno").returncode == EXIT_CONFIG


def test_nobody_waits_for_jax_to_read_the_help():
    commands = ("evaluate", "export", "predict", "runs")
    code = (
        "import sys; from trainer.__main__ import main\n"
        f"for command in {commands}:\n"
        "    sys.argv = ['trainer', command, '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "    print(command, 'jax' in sys.modules, 'orbax.checkpoint' in sys.modules)"
    )
    command_line = [sys.executable, "-c", code]
    printed = subprocess.run(command_line, capture_output=True, text=True, check=True).stdout
    for command in commands:
        assert f"usage: python -m trainer {command} " in printed
        assert f"{command} False False\n" in printed
    assert printed.count("\nexamples:\n") == printed.count("\nexit codes:\n") == len(commands)
