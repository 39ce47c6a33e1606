"""Whole sweeps: killed, stopped, failing, task by task, and finished by the same command."""

import json
import re
import shutil
import time

import pytest
from support.board import get, hparams, tensorboard
from support.in_process import summary_of, train
from support.sweeps import summary, table, wait_for

from trainer.job import lock

pytestmark = pytest.mark.slow

TINY = (
    *("+experiment=smoke", "data=mnist_5k", "model.hidden_sizes=[16]"),
    *("train.steps_per_dispatch=8", "train.log_every_steps=21", "train.pictures_every_epochs=null"),
)
FOUR = ("-m", *TINY, "train.epochs=3", "optim.lr=0.02,0.05", "run.seed=0,1")
SAME = ("status", "test_loss", "steps", "weights_sha256")


def finished(folder):
    paths = folder.glob("*/summary.json")
    return sorted(path.parent for path in paths if summary(path.parent)["status"] == "completed")


def state_of(folder):
    """Return what shows whether anything in a folder was touched."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
    }


def half_done(folder, number):
    """Return whether trial `number` (from 1) is at work and has saved."""
    saved = {path.parents[1] for path in folder.glob("*/checkpoints/[0-9]*")}
    return len(finished(folder)) == number - 1 and len(saved) == number


def test_a_sweep_is_killed_and_finished_by_the_same_command(trainer, tmp_path):
    broken = tmp_path / "broken"
    at_work = broken / "optim.lr=0.02,run.seed=1"
    first = trainer.start(*FOUR, "run.dir=broken")
    wait_for(lambda: half_done(broken, 2), first)
    first.kill()
    first.communicate()

    # The child dies with the sweep: it holds its run directory no longer, and writes no more.
    deadline = time.monotonic() + 240
    while lock.held(at_work):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    before = {run: state_of(run) for run in (at_work, *finished(broken))}
    assert len(before) == 2
    assert trainer("sweep", "broken").returncode == 0
    assert [row["status"] for row in table(broken)] == [
        "completed",
        "interrupted",
        *["waiting"] * 2,
    ]
    assert {run: state_of(run) for run in before} == before

    again = trainer.start(*FOUR, "run.dir=broken")
    wait_for(lambda: lock.held(at_work), again)
    refused = trainer(*FOUR, "run.dir=broken")
    assert refused.returncode == 78
    assert "is in use by process" in refused.stderr
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "finished before" in err
    assert re.search(r"2/4 .*: completed, validation accuracy .*, test accuracy .*, 2 starts", err)
    assert summary(at_work)["resumed_from_step"]
    assert [row["starts"] for row in sorted(table(broken), key=lambda row: row["member"])] == [
        *("1", "2", "1", "1")
    ]

    lines = err.splitlines()  # for a file: when a trial begins, and how it ended
    rows = sorted(table(broken), key=lambda row: row["member"])
    for number, row in enumerate(rows, 1):
        if number > 1:
            begun = lines.index(f"{number}/4 {row['member']}: starting")
            ends = f"{number}/4 {row['member']}: completed"
            assert any(line.startswith(ends) for line in lines[begun:])
        # The trial alone, in a process that nobody kills.
        options = [f"{option}={row[option]}" for option in ("optim.lr", "run.seed")]
        done = train(tmp_path, *TINY, "train.epochs=3", *options, f"run.dir=alone-{number}")
        assert done.returncode == 0, done.stderr
        alone = summary_of(tmp_path, f"alone-{number}")
        for name in SAME:
            assert row[name] == str(alone[name])
    ranked = sorted(rows, key=lambda row: float(row["score"]), reverse=True)
    assert [row["score"] for row in table(broken)] == [row["score"] for row in ranked]
    assert [row["rank"] for row in table(broken)] == ["1", "2", "3", "4"]
    for line in (
        "rank  optim.lr  run.seed  status",
        "optim.lr  seeds  validation accuracy  spread",
    ):
        assert line in out
    assert (broken / "sweep.png").stat().st_size > 10_000

    everything = {run: state_of(run) for run in finished(broken)}
    assert {run: everything[run] for run in before if run != at_work} == {
        run: state for run, state in before.items() if run != at_work
    }, "a finished trial was touched"
    third = trainer(*FOUR, "run.dir=broken")
    assert third.returncode == 0
    assert third.stderr.count("finished before") == 4
    assert {run: state_of(run) for run in finished(broken)} == everything
    shows_in_tensorboard(broken, tmp_path / "board.txt")


def shows_in_tensorboard(folder, log):
    """Check the page HParams: a row for each trial, with its options, accuracy and loss."""

    def completed(address):
        return [status for *_, status in hparams(address).values()] == ["STATUS_SUCCESS"] * 4

    with tensorboard(folder, log, completed) as address:
        shown = hparams(address)
        assert len(get(address, "scalars/tags")) == 4  # no run besides those of the trials
    for row in table(folder):
        options, metrics, _ = shown[f"{row['member']}/tensorboard"]
        assert options["optim.lr"] == float(row["optim.lr"])
        assert options["run.seed"] == float(row["run.seed"])
        for name in ("accuracy", "loss"):
            assert metrics[f"test/{name}"] == pytest.approx(float(row[f"test_{name}"]), rel=1e-6)


def test_a_failing_trial_does_not_end_the_rest(trainer, tmp_path):
    # On two devices a batch of 63 is refused when the run begins.
    values = ("train.global_batch_size=63,64", "train.epochs=1", "run.dir=sweep")
    done = trainer("-m", *TINY, *values, devices=2, timeout=300)
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    good, bad = table(tmp_path / "sweep")
    assert (good["rank"], good["status"], good["exit_code"]) == ("1", "completed", "0")
    assert (bad["rank"], bad["status"], bad["exit_code"]) == ("", "failed", "78")
    assert bad["error"].startswith("train.global_batch_size=63 does not divide over 2 devices")
    assert "does not divide" in done.stdout


def test_a_stop_saves_the_trials_at_work(trainer, tmp_path):
    sweep = tmp_path / "sweep"
    command = ("-m", *TINY, "train.epochs=1000", "run.seed=0,1,2", "run.dir=sweep")
    process = trainer.start(*command, "sweep.parallel=2", JAX_NUM_CPU_DEVICES="2")
    wait_for(lambda: half_done(sweep, 1) or half_done(sweep, 2), process)
    wait_for(lambda: all(lock.held(sweep / f"run.seed={seed}") for seed in (0, 1)), process)
    process.terminate()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert "the same command resumes the sweep" in err
    *stopped, third = table(sweep)
    assert [(row["status"], row["exit_code"]) for row in stopped] == [("preempted", "75")] * 2
    assert third["status"] == "waiting"
    assert "preempted" in out
    for seed in (0, 1):
        assert summary(sweep / f"run.seed={seed}")["status"] == "preempted"
        assert not lock.held(sweep / f"run.seed={seed}")


def test_tasks_of_a_job_array_train_a_trial_each(trainer, tmp_path):
    command = (*TINY, "train.epochs=1", "model.hidden_sizes=[16],[16,8]", "run.dir=sweep")
    before = tmp_path / "sweep" / "model.hidden_sizes=[16]" / "member.json"
    before.parent.mkdir(parents=True)
    before.write_text('{"begun": 1.5, "exit_code": 70, "error": "of an earlier start"}')
    tasks = [
        trainer.start("-m", "--member", "0", *command),
        *trainer.start_all(2, "-m", "--member", "1", *command),
    ]
    for task in tasks:
        out, err = task.communicate(timeout=120)
        assert task.returncode == 0, err
        assert ("rank  model.hidden_sizes  status" in out) == (task is not tasks[2])
    folder = tmp_path / "sweep"
    assert not before.exists()
    assert {row["status"] for row in table(folder)} == {"completed"}
    assert (folder / "sweep.png").stat().st_size > 10_000
    one, two = folder / "model.hidden_sizes=[16]", folder / "model.hidden_sizes=[16,8]"
    assert finished(folder) == [two, one]
    assert (summary(one)["processes"], summary(two)["processes"]) == (1, 2)
    before = [state_of(path) for path in finished(folder)]
    assert "is finished" in trainer("-m", "--member", "1", *command).stderr
    whole = trainer("-m", *command)
    assert whole.returncode == 0
    assert whole.stderr.count("finished before") == 2
    assert [state_of(path) for path in finished(folder)] == before


def test_a_sweep_written_by_the_first_version_is_resumed(trainer, tmp_path, smoke_run):
    # Before trials had their names, a finished one was this folder and a file with its ending.
    run = tmp_path / "runs" / "smoke" / "mine" / "run.seed=0"
    shutil.copytree(smoke_run, run)
    (run / "member.json").write_text('{"begun": 1.5, "exit_code": 0, "error": null}')
    plain = ["+experiment=smoke", "train.pictures_every_epochs=null"]
    plan = {"fixed": plain, "members": {run.name: {"run.seed": "0"}}}
    (run.parent / "sweep.json").write_text(json.dumps(plan))
    before = state_of(run)
    done = trainer("-m", *plain, "run.seed=0,1", "run.name=mine")
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in table(run.parent)} == {"completed"}
    assert state_of(run) == before
