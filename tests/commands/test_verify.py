"""`verify` reports on the checkpoints of a run, and touches nothing."""

import json
import shutil

from support.harm import flip_a_bit, largest_file
from support.verified_run import RECORD, make_state

from trainer.checkpoint import files as saved
from trainer.checkpoint.store import Best, Checkpoints
from trainer.job.errors import EXIT_CONFIG, EXIT_DATA


def megabytes(run, step):
    """The size of a checkpoint, as a person reads it."""
    files = (run / "checkpoints" / str(step)).rglob("*")
    return f"{sum(path.stat().st_size for path in files if path.is_file()) / 1e6:.2f}"


def test_an_intact_run(verified, run):
    code, out, _ = verified(run)
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["step", "result", "evaluation", "MB", "saved", "at"]
    assert [row.split()[:-2] for row in rows] == [
        ["9", "ok", "-", megabytes(run, 9)],
        ["10", "ok", "test", "90.00%", megabytes(run, 10)],
        ["100", "ok,", "best", "validation", "98.77%", megabytes(run, 100)],
    ]
    assert [row.index("ok") for row in rows] == [header.index("result")] * 3
    assert rows[2].startswith(" 100  ")
    assert rows[0].startswith("   9  ")


def test_a_task_without_an_accuracy_shows_its_loss(verified, tmp_path):
    folder, best = tmp_path / "run" / "checkpoints", Best("f1", largest=True)
    with Checkpoints(folder, keep_last=3, keep_best=0, best=best, warn=print) as checkpoints:
        checkpoints.save(5, make_state(5), RECORD, {"validation_loss": 0.25, "validation_f1": 0.5})
    code, out, _ = verified(tmp_path / "run")
    assert code == 0
    assert out.splitlines()[1].split()[:5] == ["5", "ok,", "best", "validation", "loss"]


def test_json(verified, run):
    flip_a_bit(largest_file(run / "checkpoints" / "10"))
    (run / "checkpoints" / "9").rename(run / "checkpoints" / "bad-9.0")
    code, out, _ = verified(run, "--json")
    assert code == EXIT_DATA
    report = json.loads(out)
    assert report["directory"] == str(run / "checkpoints")
    assert report["set_aside"] == ["bad-9.0"]
    assert report["unfinished"] == []
    damaged, intact = report["checkpoints"]
    tested = {"validation_accuracy", "validation_loss", "test_accuracy", "test_loss"}
    assert set(intact) == {"step", "ok", "damage", *tested, "bytes", "saved_at", "best"}
    assert (intact["step"], intact["ok"], intact["damage"]) == (100, True, None)
    assert intact["validation_accuracy"] == 0.98765
    assert (damaged["best"], intact["best"]) == (False, True)
    assert (damaged["step"], damaged["ok"]) == (10, False)
    assert "does not match its checksum" in damaged["damage"]


def test_what_was_left_over_is_told_and_harms_nothing(verified, run):
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "9", checkpoints / "bad-9.0")
    (checkpoints / "9").rename(checkpoints / "trash-9")
    (checkpoints / "10").rename(checkpoints / "saving-10")
    for name in ("lost+found", "126.bak"):  # of the file system, and of a person
        (checkpoints / name).mkdir()
    code, out, _ = verified(run)
    assert code == 0
    assert out.splitlines()[-2].endswith(": bad-9.0")
    assert out.splitlines()[-1].endswith(": saving-10, trash-9")


def test_a_checkpoint_retired_meanwhile_is_no_error(verified, run, monkeypatch):
    steps = saved.steps

    def and_then_retired(directory):
        result = steps(directory)
        shutil.rmtree(directory / "9", ignore_errors=True)
        return result

    monkeypatch.setattr(saved, "steps", and_then_retired)
    code, out, _ = verified(run)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["10", "100"]


def test_no_checkpoint_yet(verified, tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    code, _, error = verified(tmp_path / "run")
    assert code == EXIT_DATA
    assert "has no checkpoint" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_no_run(verified, tmp_path):
    code, _, error = verified(tmp_path / "rum")
    assert code == EXIT_CONFIG
    assert f"RUN={tmp_path / 'rum'} does not exist" in error
    code, _, error = verified(tmp_path)
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
