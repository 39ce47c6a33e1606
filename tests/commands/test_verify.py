"""`verify` tells intact checkpoints from damaged ones, and touches nothing."""

import json
import os
import shutil

import numpy as np
import pytest
from support.harm import flip_a_bit, largest_file
from support.trained_runs import everything

from trainer.checkpoint import files as saved
from trainer.checkpoint.store import Best, Checkpoints
from trainer.commands import verify
from trainer.job.errors import EXIT_CONFIG, EXIT_DATA, EXIT_SAVE, TrainerError
from trainer.job.signals import StopRequest
from trainer.optimizers.optimizer import State
from trainer.parallel.step import TrainState

RECORD = {  # the least that a record has
    "meaning": {
        "data set": {"name": "digits", "sha256": "0", "train_examples": 2, "test_examples": 1}
    },
    "config": {
        "model": {},
        "data": {"name": "idx", "cache_dir": "", "mirrors": [], "sha256": {}}
        | {"download": False, "timeout_seconds": 1},
        "train": {"eval_batch_size": 1},
    },
    "versions": {},
}


def make_state(seed):
    rng = np.random.default_rng(seed)
    weights = [tuple(rng.normal(size=size).astype(np.float32) for size in ((20, 30), (30,)))]
    return TrainState(weights, State(weights), np.array(seed, np.int32))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A run with the checkpoints 9, 10 and 100; 9 was not evaluated."""
    run = tmp_path_factory.mktemp("pristine") / "run"
    folder, best = run / "checkpoints", Best("accuracy", largest=True)
    with Checkpoints(folder, keep_last=3, keep_best=0, best=best, warn=print) as checkpoints:
        for step, tested in (
            (9, None),
            (10, {"test_accuracy": 0.9}),
            (100, {"validation_accuracy": 0.98765}),
        ):
            checkpoints.save(step, make_state(step), RECORD, tested)
    return run


@pytest.fixture
def run(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "run")


@pytest.fixture
def called(capsys):
    """Runs the command in this process; returns (exit code, what it printed, its error)."""

    def call(*arguments):
        try:
            code, error = verify.main([str(a) for a in arguments], StopRequest()), ""
        except TrainerError as raised:
            code, error = raised.exit_code, str(raised)
        return code, capsys.readouterr().out, error

    return call


def megabytes(run, step):
    """The size of a checkpoint, as a person reads it."""
    files = (run / "checkpoints" / str(step)).rglob("*")
    return f"{sum(path.stat().st_size for path in files if path.is_file()) / 1e6:.2f}"


def test_an_intact_run(called, run):
    code, out, _ = called(run)
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["step", "result", "evaluation", "MB", "saved", "at"]
    assert [row.split()[:-2] for row in rows] == [
        ["9", "ok", "-", megabytes(run, 9)],
        ["10", "ok", "test", "90.00%", megabytes(run, 10)],
        ["100", "ok", "validation", "98.77%", megabytes(run, 100)],
    ]
    assert [row.index("ok") for row in rows] == [header.index("result")] * 3
    assert rows[2].startswith(" 100  ")
    assert rows[0].startswith("   9  ")


def test_a_task_without_an_accuracy_shows_its_loss(called, tmp_path):
    folder, best = tmp_path / "run" / "checkpoints", Best("f1", largest=True)
    with Checkpoints(folder, keep_last=3, keep_best=0, best=best, warn=print) as checkpoints:
        checkpoints.save(5, make_state(5), RECORD, {"validation_loss": 0.25, "validation_f1": 0.5})
    code, out, _ = called(tmp_path / "run")
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["5", "ok", "validation", "loss"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: flip_a_bit(largest_file(folder)), "file ocdbt.process_0/d/"),
        (lambda folder: (folder / "_METADATA").write_text("{"), "file _METADATA does not match"),
        (lambda folder: os.truncate(largest_file(folder), 2**43), "has 8,796,093,022,208 bytes"),
        (lambda folder: (folder / "_METADATA").unlink(), "file _METADATA is missing"),
        (lambda folder: flip_a_bit(folder / "_CHECKPOINT_METADATA"), "file _CHECKPOINT_METADATA"),
        (lambda folder: (folder / "manifest.ocdbt").unlink(), "file manifest.ocdbt is missing"),
        (
            lambda folder: flip_a_bit(folder / "manifest.ocdbt"),
            "file manifest.ocdbt does not match",
        ),
        (lambda folder: [p.unlink() for p in (folder / "d").iterdir()], "is missing"),
        (lambda folder: shutil.rmtree(folder / "d"), "is missing"),
        (lambda folder: (folder / "commit_success.txt").unlink(), "commit_success.txt is missing"),
        (lambda folder: flip_a_bit(folder / "record.json"), "file record.json"),
        (lambda folder: (folder / "record.json").unlink(), "file record.json is missing"),
    ],
    ids=[
        *(
            "array",
            "tree",
            "terabytes",
            "no tree",
            "metadata",
            "no manifest",
            "manifest",
            "no index",
        ),
        *("no folder", "no mark", "record", "no record"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_what_is_wrong(called, run, damage, named):
    damage(run / "checkpoints" / "100")
    code, out, error = called(run)
    assert code == EXIT_DATA
    row = out.splitlines()[-1]
    assert row.split()[:2] == ["100", "damaged"]
    assert named in row
    assert str(run) not in row
    assert "1 of 3 checkpoints damaged" in error
    assert "resumes from step 10" in error


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(called, run):
    (run / "checkpoints" / "100").rename(run / "checkpoints" / "200")
    code, out, _ = called(run)
    assert code == EXIT_DATA
    assert "it was saved as step 100" in out


def test_all_damaged(called, run):
    for step in (9, 10, 100):
        flip_a_bit(largest_file(run / "checkpoints" / str(step)))
    code, _, error = called(run)
    assert code == EXIT_DATA
    assert "3 of 3 checkpoints damaged, none intact" in error


def test_json(called, run):
    flip_a_bit(largest_file(run / "checkpoints" / "10"))
    (run / "checkpoints" / "9").rename(run / "checkpoints" / "bad-9.0")
    code, out, _ = called(run, "--json")
    assert code == EXIT_DATA
    report = json.loads(out)
    assert report["directory"] == str(run / "checkpoints")
    assert report["set_aside"] == ["bad-9.0"]
    assert report["unfinished"] == []
    damaged, intact = report["checkpoints"]
    tested = {"validation_accuracy", "validation_loss", "test_accuracy", "test_loss"}
    assert set(intact) == {"step", "ok", "damage", *tested, "bytes", "saved_at"}
    assert (intact["step"], intact["ok"], intact["damage"]) == (100, True, None)
    assert intact["validation_accuracy"] == 0.98765
    assert (damaged["step"], damaged["ok"]) == (10, False)
    assert "does not match its checksum" in damaged["damage"]


def test_what_was_left_over_is_told_and_harms_nothing(called, run):
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "9", checkpoints / "bad-9.0")
    (checkpoints / "9").rename(checkpoints / "trash-9")
    (checkpoints / "10").rename(checkpoints / "saving-10")
    for name in ("lost+found", "126.bak"):  # of the file system, and of a person
        (checkpoints / name).mkdir()
    code, out, _ = called(run)
    assert code == 0
    assert out.splitlines()[-2].endswith(": bad-9.0")
    assert out.splitlines()[-1].endswith(": saving-10, trash-9")


def test_only_checkpoints_set_aside(called, run):
    for step in (9, 10, 100):
        (run / "checkpoints" / str(step)).rename(run / "checkpoints" / f"bad-{step}.0")
    code, _, error = called(run)
    assert code == EXIT_DATA
    assert "has no checkpoint" in error


def test_a_file_that_the_storage_does_not_give_is_not_called_damaged(called, run):
    path = run / "checkpoints" / "100" / "manifest.ocdbt"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading its beginning is an input/output error
    code, _, error = called(run)
    assert code == EXIT_SAVE
    assert f"{path} cannot be read (Input/output error)" in error


def test_nothing_is_touched(called, run):
    flip_a_bit(largest_file(run / "checkpoints" / "100"))
    (run / "checkpoints" / "trash-9").mkdir()
    folders = [path for path in [run, *run.rglob("*")] if path.is_dir()]
    before = everything(run)
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert called(run)[0] == EXIT_DATA
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert everything(run) == before


def test_a_checkpoint_retired_meanwhile_is_no_error(called, run, monkeypatch):
    steps = saved.steps

    def and_then_retired(directory):
        result = steps(directory)
        shutil.rmtree(directory / "9", ignore_errors=True)
        return result

    monkeypatch.setattr(saved, "steps", and_then_retired)
    code, out, _ = called(run)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["10", "100"]


def test_no_checkpoint_yet(called, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    code, _, error = called(tmp_path / "run")
    assert code == EXIT_DATA
    assert "has no checkpoint" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_run(called, tmp_path):
    code, _, error = called(tmp_path / "rum")
    assert code == EXIT_CONFIG
    assert f"RUN={tmp_path / 'rum'} does not exist" in error
    code, _, error = called(tmp_path)
    assert code == EXIT_CONFIG
    assert "is not a run directory" in error


def test_the_command_line(trainer, run):
    done = trainer("verify", "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4
    (run / "checkpoints" / "100" / "manifest.ocdbt").write_bytes(b"")
    done = trainer("verify", "run")
    assert done.returncode == EXIT_DATA
    assert "manifest.ocdbt" in done.stdout
    (line,) = done.stderr.splitlines()  # no traceback
    assert line.startswith("error: ")
    assert trainer("verify", "run", "--jsno").returncode == EXIT_CONFIG
    assert trainer("verify").returncode == EXIT_CONFIG
    message = trainer("verify", "--help")
    assert message.returncode == 0
    assert "exit codes:" in message.stdout
