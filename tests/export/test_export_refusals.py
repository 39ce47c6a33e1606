"""An export is put in place whole and checked, or not at all."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.exports import FILES
from support.harm import own_disk
from support.trained_runs import copy, damage, everything

from trainer.checkpoint import load_model
from trainer.export import command, files, programs
from trainer.job.errors import (
    EXIT_CONFIG,
    EXIT_INTERNAL,
    ConfigError,
    DataError,
    Preempted,
    SaveError,
    TrainerError,
)
from trainer.job.signals import StopRequest

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def other_weights(smoke_run, monkeypatch):
    right = programs.named

    def wrong(weights):
        arrays = right(weights)
        arrays["1.bias"] = arrays["1.bias"] + np.float32(1e-3) * np.arange(10, dtype="f4")
        return arrays

    monkeypatch.setattr(programs, "named", wrong)


def other_onnx_file(smoke_run, monkeypatch):
    older = programs.onnx(load_model.load(smoke_run, 57, print))
    monkeypatch.setattr(programs, "onnx", lambda _: older)


@pytest.mark.parametrize(
    ("harm", "file"), [(other_weights, "model.stablehlo"), (other_onnx_file, "model.onnx")]
)
def test_an_export_that_does_not_agree_is_not_put_in_place(
    smoke_run, tmp_path, monkeypatch, harm, file
):
    harm(smoke_run, monkeypatch)
    message = rf"on 1,000 test .* of {file} differ .*; 1e-0[56] is allowed; nothing was put in"
    with pytest.raises(TrainerError, match=message) as raised:
        command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest())
    assert raised.value.exit_code == EXIT_INTERNAL
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_onnx(smoke_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)  # what import finds where it is not installed
    assert command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest()) == 0
    assert {path.name for path in (tmp_path / "digits").iterdir()} == FILES - {"model.onnx"}
    out = capsys.readouterr().out
    assert "model.onnx was left out: install the extra `onnx`: pip install '.[onnx]'" in out
    assert "model.onnx was left out" in (tmp_path / "digits" / "MODEL_CARD.md").read_text()


def test_only_an_export_is_replaced_and_only_when_asked(smoke_run, exported, tmp_path):
    def run(target, *options):
        return command.main([str(smoke_run), str(target), *options], StopRequest())

    before = everything(exported)
    with pytest.raises(ConfigError, match="holds an export: add --replace"):
        run(exported)
    (exported / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"not from an export: notes\.txt"):
        run(exported, "--replace")
    (exported / "notes.txt").unlink()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.json").write_text('{"sha256": {}}')
    (tmp_path / "file").write_text("")
    for other in (mine, tmp_path / "file", smoke_run, tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"not from an export|cannot be written"):
            run(other, "--replace")
    del before["."]
    after = everything(exported)
    assert {name: after[name] for name in before} == before
    assert run(exported, "--replace", "--step", "57") == 0
    assert json.loads((exported / "model.json").read_text())["step"] == 57
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"digits", "mine", "file", "empty"}


def test_an_export_that_was_imported_is_replaced(smoke_run, exported):
    use = "from predict import load_model; from pathlib import Path; load_model(Path())"
    environ = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", use], cwd=exported, env=environ, check=True)
    assert (exported / "__pycache__").is_dir()
    assert command.main([str(smoke_run), str(exported), "--replace"], StopRequest()) == 0
    assert {path.name for path in exported.iterdir()} == FILES
    assert [path.name for path in exported.parent.iterdir()] == ["digits"]
    (exported / "model.json").unlink()
    (exported / "__pycache__").mkdir()
    with pytest.raises(ConfigError, match="not from an export"):
        command.main([str(smoke_run), str(exported), "--replace"], StopRequest())


def test_a_failed_replacement_leaves_the_old_one(exported):
    before = everything(exported)
    with (
        pytest.raises(ConfigError, match=r"cannot be written \(No such file"),
        command.replacing(exported, replace=True) as folder,
    ):
        (folder / "missing" / "file").touch()
    assert everything(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["digits"]


def test_a_full_disk(smoke_run, tmp_path):
    with own_disk(tmp_path, "size=128k"):
        with pytest.raises(
            SaveError, match=r"/digits cannot be written .*No space .* make room"
        ) as raised:
            command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest())
        assert list(tmp_path.iterdir()) == []
    assert raised.value.exit_code == 74


def test_damaged_checkpoints(smoke_run, tmp_path, capsys):
    run = copy(smoke_run, tmp_path / "run")
    damage(run, 114)
    before = everything(run)
    assert command.main([str(run), str(tmp_path / "digits")], StopRequest()) == 0
    assert json.loads((tmp_path / "digits" / "model.json").read_text())["step"] == 57
    assert "checkpoint 114 of" in capsys.readouterr().err
    assert everything(run) == before
    damage(run, 57)
    with pytest.raises(DataError, match="none of its checkpoints is intact"):
        command.main([str(run), str(tmp_path / "other")], StopRequest())
    assert not (tmp_path / "other").exists()


def test_where_the_test_images_are_not_to_be_had(smoke_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("trainer.sources.mnist.FILE_5K", "data/none.csv.gz")
    assert command.main([str(smoke_run), str(tmp_path / "digits")], StopRequest()) == 0
    output = capsys.readouterr().err
    assert "there are no test examples (" in output
    assert "): the files are compared on random ones, and the card gets no metrics" in output
    card = (tmp_path / "digits" / "MODEL_CARD.md").read_text()
    assert "on 1,000 random examples" in card
    assert "at the export |" not in card
    with pytest.raises(DataError, match="put it there"):
        command.main(
            [str(smoke_run), str(tmp_path / "other"), "--data", str(tmp_path)], StopRequest()
        )


def test_asked_to_stop(smoke_run, tmp_path):
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    with pytest.raises(Preempted):
        command.main([str(smoke_run), str(tmp_path / "digits")], stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(trainer, smoke_run):
    done = trainer("export", str(smoke_run), "digits")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"in {trainer.folder / 'digits'}"
    assert "checkpoint 114 of" in done.stderr
    output = [line for line in done.stdout.splitlines() if " differ from the live " in line]
    assert len(output) == 2
    assert not any(line in done.stderr for line in output)
    assert trainer("export", str(smoke_run), "digits").returncode == EXIT_CONFIG
    shutil.rmtree(trainer.folder / "digits")
    assert files.TOLERANCE <= 1e-6
