"""`--config-dir DIR`: a user's own folder of experiments, for every command that composes a job."""

import os
import sys

import pytest

from trainer import __main__ as program
from trainer.config import user_module
from trainer.config.compose import compose, compose_each
from trainer.job.errors import ConfigError
from trainer.sweep import plan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with an odd name, which is the one of --config-dir."""
    folder = tmp_path / "my conf=a,b{x}'é #%${y}[1]"
    files = {
        "experiment/first": "# @package _global_\ndefaults:\n  - override /optim: own\n",
        "optim/own": "defaults:\n  - sgd\nlr: 0.5\n",
        "data/mnist": "defaults:\n  - mnist_5k\n",  # instead of the trainer's
    }
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    monkeypatch.setenv("TRAINER_CONFIG_DIR", str(folder))
    return folder


def test_its_files_are_found_first(folder):
    (job,) = compose(["+experiment=first", "run.seed=3"])
    assert job.experiment == "first"
    assert (job.config.optim.lr, job.config.optim.name) == (0.5, "sgd")
    assert job.config.data.name == "mnist_5k"
    assert compose_each([["+experiment=first", "run.seed=3"]]) == [job]


def test_hydra_itself_finds_them_too(folder, capsys):
    assert compose(["+experiment=first", "--cfg", "job"]) == []
    assert "lr: 0.5" in capsys.readouterr().out


def test_a_sweep_finds_them(folder, tmp_path):
    trials = plan.make(["+experiment=first", "run.seed=0,1", f"run.dir={tmp_path / 'sweep'}"])
    assert [job.config.optim.lr for job in trials.jobs] == [0.5, 0.5]


@pytest.mark.parametrize("flags", [[], ["--cfg", "job"]])
def test_an_error_knows_them(folder, flags):
    with pytest.raises(ConfigError, match=r"experiment=frist: .*: did you mean first[?]") as raised:
        compose(["+experiment=frist", *flags])
    assert str(folder / "experiment") in str(raised.value)


def test_an_experiment_in_a_folder_that_was_not_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "vae.yaml").touch()
    with pytest.raises(ConfigError, match="add --config-dir conf"):
        compose(["+experiment=vae"])
    monkeypatch.setenv("TRAINER_CONFIG_DIR", str(tmp_path))  # one too high
    with pytest.raises(ConfigError, match=f"{tmp_path} has no folder experiment"):
        compose(["+experiment=vae"])


def test_a_module_beside_the_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "model.py").touch()
    monkeypatch.setenv("TRAINER_CONFIG_DIR", str(tmp_path / "conf"))
    assert user_module.file_of("model.module", "model.py") == tmp_path / "model.py"


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("model:\n  hidden_sizes: [8]\n", ["below `experiment`", "`# @package _global_`"]),
        ("# @package _global_\nmodel:\n  sizes: [8]\n", ["model.sizes is not an option"]),
        ("# @package _global_\nepochs: 3\n", ["epochs is not", "did you mean train.epochs?"]),
        ("# @package _global_\ntrain:\n  epochs: ten\n", ["train.epochs=ten: use a whole number"]),
        ("# @package _global_\ndefaults:\n  - override model: mlp\n", ["begin its name with a sl"]),
        ("# @package _global_\ntrain:\n\tepochs: 3\n", ["line 3"]),
    ],
)
def test_a_wrong_file_is_named(folder, text, messages):
    (folder / "experiment" / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        compose(["+experiment=wrong"])
    for message in ("experiment/wrong", *messages):
        assert message in str(raised.value)
    assert "is added with a plus" not in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("/model: mlp", "in a file, override /model"), ("override /model: nope", "model=nope: there")],
)
def test_a_wrong_choice_in_a_file_is_named(folder, line, message):
    text = f"# @package _global_\ndefaults:\n  - {line}\n"
    (folder / "experiment" / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        compose(["+experiment=wrong"])


@pytest.mark.parametrize("words", [["--config-dir", "own"], ["--config-dir=own"]])
def test_the_option_may_stand_anywhere_and_child_processes_inherit_it(words, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CONFIG_DIR", "overruled")
    assert program._without_config_dir(["doctor", *words, "a=1"]) == ["doctor", "a=1"]
    assert os.environ["TRAINER_CONFIG_DIR"] == str(tmp_path / "own")


def test_a_relative_folder_in_the_environment_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAINER_CONFIG_DIR", ".")
    assert program._without_config_dir(["a=1"]) == ["a=1"]
    assert os.environ["TRAINER_CONFIG_DIR"] == str(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-dir", "nowhere"], "error: --config-dir=nowhere is not a folder"),
        (["doctor", "--config-dir"], "error: --config-dir= is not a folder"),
        (["--config-dir="], "error: --config-dir= is not a folder"),
        (["--config-dir", "app"], "error: --config-dir=app: its config.yaml would replace"),
    ],
)
def test_a_wrong_folder_ends_with_78(words, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["trainer", *words])
    monkeypatch.setattr(program, "StopRequest", _NoSignals)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setenv("MPLBACKEND", "agg")
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 78
    assert message in capsys.readouterr().err


class _NoSignals:
    def install(self):
        pass

    ignore = install
