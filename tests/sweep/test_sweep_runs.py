"""Whole sweeps: killed, stopped, failing, member by member, and finished by the same command."""

import csv
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.board import ROOT, get, hparams, tensorboard

from trainer.job import lock

pytestmark = pytest.mark.slow

TINY = (
    *("+experiment=smoke", "data=mnist_5k", "model.hidden_sizes=[16]"),
    *("train.steps_per_dispatch=8", "train.log_every_steps=21"),
)
NINE = ("-m", *TINY, "train.epochs=3", "optim.lr=0.02,0.05,0.1", "run.seed=0,1,2")
SAME = ("rank", "member", "status", "test_accuracy", "test_loss", "steps", "weights_sha256")


def table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def what_is_equal(folder):
    return [{name: row[name] for name in SAME} for row in table(folder)]


def summary(member):
    return json.loads((member / "summary.json").read_text())


def finished(folder):
    found = []
    for path in folder.glob("*/summary.json"):
        if json.loads(path.read_text())["status"] == "completed":
            found.append(path.parent)
    return sorted(found)


def state_of(folder):
    """Return what tells whether anything in a folder was touched."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
    }


def wait_for(what, seconds=120):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def half_done(folder, number):
    """Return the member at work when it is the given one and has saved, else None."""
    if len(finished(folder)) != number - 1:
        return None
    for saved in folder.glob("*/checkpoints/[0-9]*"):
        member = saved.parents[1]
        if not (member / "summary.json").exists():
            return member
    return None


def test_nine_members_killed_and_finished_by_the_same_command(trainer, tmp_path):
    folder, other = tmp_path / "broken", tmp_path / "unbroken"
    broken = trainer.start(*NINE, "run.dir=broken")
    unbroken = trainer.start(*NINE, "run.dir=unbroken")
    wait_for(lambda: half_done(folder, 4) or broken.poll() is not None)
    if broken.poll() is None:
        os.kill(broken.pid, signal.SIGKILL)
    broken.communicate()
    member = half_done(folder, 4)
    assert member, "the sweep was not killed within a member: its training is too short"

    # The child dies with the sweep: it holds its run directory no longer, and writes no more.
    wait_for(lambda: not lock.held(member), seconds=5)
    stopped_at = state_of(member)
    done = finished(folder)
    assert len(done) == 3
    before = [state_of(path) for path in done]
    trained = json.loads((member / "goodput.json").read_text())["starts"]
    assert trained == 1
    time.sleep(0.5)
    assert state_of(member) == stopped_at

    shown = trainer("sweep", "broken")
    assert shown.returncode == 0
    statuses = [row["status"] for row in table(folder)]
    assert statuses == ["completed"] * 3 + ["interrupted"] + ["waiting"] * 5

    again = trainer.start(*NINE, "run.dir=broken")
    wait_for(lambda: lock.held(member) or again.poll() is not None)
    refused = trainer(*NINE, "run.dir=broken")
    assert refused.returncode == 78
    assert "is in use by process" in refused.stderr
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert [state_of(path) for path in done] == before, "a finished member was touched"
    assert summary(member)["resumed_from_step"]
    starts = {path.name: summary(path)["goodput"]["starts"] for path in finished(folder)}
    assert starts.pop(member.name) == 2
    assert len(starts) == 8
    assert set(starts.values()) == {1}

    _, err = unbroken.communicate(timeout=300)
    assert unbroken.returncode == 0, err
    told = err.splitlines()  # for a file: when a member begins, and how it ended
    for number, row in enumerate(sorted(table(other), key=lambda row: row["member"]), 1):
        begun = told.index(f"{number}/9 {row['member']}: starting")
        assert any(
            line.startswith(f"{number}/9 {row['member']}: completed") for line in told[begun:]
        )
    assert what_is_equal(folder) == what_is_equal(other)
    assert [row["rank"] for row in table(folder)] == [str(i) for i in range(1, 10)]
    for line in ("rank  optim.lr  run.seed  status", "optim.lr  seeds  mean accuracy  spread"):
        assert line in out
    assert (folder / "sweep.png").stat().st_size > 10_000

    everything = [state_of(path) for path in finished(folder)]
    third = trainer(*NINE, "run.dir=broken")
    assert third.returncode == 0
    assert third.stderr.count("finished before") == 9
    assert [state_of(path) for path in finished(folder)] == everything

    def completed(address):
        statuses = [status for *_, status in hparams(address).values()]
        return statuses == ["STATUS_SUCCESS"] * 9

    with tensorboard(folder, tmp_path / "board.txt", completed) as address:
        shown = hparams(address)
        assert len(get(address, "scalars/tags")) == 9  # no run besides those of the members
    for row in table(folder):
        options, metrics, _ = shown[f"{row['member']}/tensorboard"]
        assert options["optim.lr"] == float(row["optim.lr"])
        assert options["run.seed"] == float(row["run.seed"])
        for name in ("accuracy", "loss"):
            assert metrics[f"eval/{name}"] == pytest.approx(float(row[f"test_{name}"]), rel=1e-6)


def test_a_failing_member_does_not_end_the_rest(trainer, tmp_path):
    # On two devices a batch of 63 is refused when the run begins; the other fails in training.
    values = ("optim.lr=1e30,0.05", "train.global_batch_size=63,64")
    done = trainer("-m", *TINY, "train.epochs=1", *values, "run.dir=sweep", devices=2, timeout=300)
    assert done.returncode == 70, done.stderr
    assert "Traceback" not in done.stderr
    rows = {row["member"]: row for row in table(tmp_path / "sweep")}
    assert len(rows) == 4
    good = rows["optim.lr=0.05,train.global_batch_size=64"]
    assert (good["rank"], good["status"], good["exit_code"]) == ("1", "completed", "0")
    nonfinite = rows["optim.lr=1e+30,train.global_batch_size=64"]
    assert (nonfinite["rank"], nonfinite["status"], nonfinite["exit_code"]) == ("", "failed", "70")
    assert "not finite" in nonfinite["error"]
    for lr in ("0.05", "1e+30"):
        row = rows[f"optim.lr={lr},train.global_batch_size=63"]
        assert (row["status"], row["exit_code"]) == ("failed", "78")
        assert row["error"].startswith("train.global_batch_size=63 does not divide over 2 devices")
    assert "does not divide" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_saves_the_member_at_work(number, trainer, tmp_path):
    command = ("-m", *TINY, "train.epochs=40", "run.seed=0,1", "run.dir=sweep")
    process = trainer.start(*command)
    wait_for(lambda: half_done(tmp_path / "sweep", 1) or process.poll() is not None)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "Traceback" not in err
    assert "the same sweep goes on from there" in err
    first, second = table(tmp_path / "sweep")
    assert (first["status"], first["exit_code"]) == ("preempted", "75")
    assert second["status"] == "waiting"
    assert "preempted" in out
    saved = summary(tmp_path / "sweep" / "run.seed=0")
    assert saved["status"] == "preempted"
    assert not lock.held(tmp_path / "sweep" / "run.seed=0")


def test_a_finished_sweep_is_not_mixed_with_what_conf_says_now(trainer, tmp_path):
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    for folder in ("trainer", "conf"):
        shutil.copytree(ROOT / folder, copy / folder)
    environ = {"PYTHONPATH": str(copy)}
    command = ("-m", "+experiment=smoke", "train.epochs=1", "run.dir=sweep")
    folder = tmp_path / "sweep"
    assert trainer(*command, "run.seed=3,4", **environ).returncode == 0
    before = state_of(folder)
    smoke = copy / "conf" / "experiment" / "smoke.yaml"
    changed = re.sub(r"hidden_sizes: .*", "hidden_sizes: [24]", smoke.read_text())
    assert changed != smoke.read_text()
    smoke.write_text(changed)
    for more in ((), ("--member", "2"), ("--member", "0")):
        refused = trainer(*command, "run.seed=3,4,5", *more, **environ)
        assert refused.returncode == 78, refused.stderr
        assert re.search(
            r"run\.seed=3: model\.hidden_sizes: .* in the checkpoint, \[24\]",
            refused.stderr,
        )
        assert state_of(folder) == before
    done = trainer(*command, "run.seed=3,4", "run.dir=other", **environ)
    assert done.returncode == 0, done.stderr


def test_tasks_of_a_job_array_train_a_member_each(trainer, tmp_path):
    command = (*TINY, "train.epochs=1", "model.hidden_sizes=[16],[16,8]", "run.dir=sweep")
    tasks = [trainer.start("-m", "--member", str(i), *command) for i in (0, 1)]
    for task in tasks:
        out, err = task.communicate(timeout=120)
        assert task.returncode == 0, err
        assert "rank  model.hidden_sizes  status" in out
    folder = tmp_path / "sweep"
    assert {row["status"] for row in table(folder)} == {"completed"}
    assert (folder / "sweep.png").stat().st_size > 10_000
    names = {"model.hidden_sizes=[16]", "model.hidden_sizes=[16,8]"}
    assert {path.name for path in finished(folder)} == names
    assert {row["member"] for row in table(folder)} == names
    before = [state_of(path) for path in finished(folder)]
    assert trainer("-m", "--member", "1", *command).returncode == 0
    whole = trainer("-m", *command)
    assert whole.returncode == 0
    assert whole.stderr.count("finished before") == 2
    assert [state_of(path) for path in finished(folder)] == before
    shown = json.loads(trainer("sweep", "sweep", "--json").stdout)
    assert {row["status"] for row in shown["members"]} == {"completed"}


def test_a_sweep_and_a_single_run_do_not_mix(trainer, tmp_path, smoke_run):
    run = ("+experiment=smoke", "data=mnist_5k", "train.epochs=1")
    folder = tmp_path / "runs" / "smoke" / "same"
    shutil.copytree(smoke_run, folder)
    before = state_of(folder)
    values = ("-m", *run, "run.seed=0,1", "run.name=same")
    for command in (values, (*values, "--member", "1"), ("submit", "slurm", "--dry-run", *values)):
        refused = trainer(*command)
        assert refused.returncode == 78
        assert f"error: -m: {folder} is the run directory of a single run" in refused.stderr
        assert refused.stderr.endswith("choose another folder with run.name=NAME\n")
        assert state_of(folder) == before

    folder = tmp_path / "runs" / "smoke" / "sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text('{"fixed": [], "members": {}}')
    refused = trainer(*run, "run.name=sweep")
    assert refused.returncode == 78
    assert f"error: {folder} is the folder of a sweep" in refused.stderr
    assert refused.stderr.endswith("choose another with run.name=NAME\n")
    assert [path.name for path in folder.iterdir()] == ["sweep.json"]


def test_a_second_start_of_a_member_leaves_the_first_alone(trainer, tmp_path):
    folder = tmp_path / "sweep"
    command = ("-m", "--member", "0", *TINY, "train.epochs=100000", "run.seed=0,1", "run.dir=sweep")
    first = trainer.start(*command)
    trainer.wait_for_step(42, "sweep/run.seed=0")
    ending = folder / "run.seed=0" / "member.json"
    begun = ending.read_text()
    second = trainer(*command)
    assert second.returncode == 78
    assert "is in use by process" in second.stderr
    assert ending.read_text() == begun
    first.kill()
    first.wait()
    shown = json.loads(trainer("sweep", "sweep", "--json").stdout)
    assert [row["status"] for row in shown["members"]] == ["interrupted", "waiting"]


def test_a_task_that_cannot_write_the_table_says_so(trainer, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "sweep.turn").mkdir()
    done = trainer("-m", "--member", "0", *TINY, "run.seed=0,1", "run.dir=sweep")
    assert done.returncode == 74, done.stderr
    assert "Traceback" not in done.stderr
    assert f"error: {folder}: cannot be written" in done.stderr


def test_a_member_may_have_several_processes(trainer, tmp_path):
    command = (*TINY, "train.epochs=1", "run.seed=0,1", "run.dir=sweep")
    for process in trainer.start_all(2, "-m", "--member", "1", *command):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    done, waiting = table(tmp_path / "sweep")
    assert (done["member"], done["status"]) == ("run.seed=1", "completed")
    assert (waiting["member"], waiting["status"]) == ("run.seed=0", "waiting")
    assert summary(tmp_path / "sweep" / "run.seed=1")["processes"] == 2


def test_optuna_searches_and_goes_on(trainer, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")
    command = (
        *("-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=3", *TINY, "train.epochs=1"),
        *("optim.lr=interval(0.01,0.2)", "data.cache_dir=~/cache", "run.dir=sweep"),
    )
    folder = tmp_path / "sweep"
    process = trainer.start(*command)
    wait_for(lambda: len(finished(folder)) == 1 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    before = {path: state_of(path) for path in finished(folder)}
    done = trainer(*command, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(finished(folder)) == 3
    assert len(table(folder)) == 3
    assert {path: state_of(path) for path in before} == before


def test_without_optuna_the_search_says_what_to_install(trainer, tmp_path):
    hidden = tmp_path.parent / f"{tmp_path.name}-hidden"
    for package in ("optuna", "hydra_plugins"):
        (hidden / package).mkdir(parents=True)
        (hidden / package / "__init__.py").write_text("raise ModuleNotFoundError('hidden')\n")
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(hidden), str(root)])
    done = trainer("-m", "hydra/sweeper=search", "optim.lr=interval(0.01,0.2)", PYTHONPATH=path)
    assert done.returncode == 78
    assert "pip install '.[optuna]' in the checkout" in done.stderr
    assert not list(tmp_path.iterdir())
