"""The test split selects nothing: it is evaluated once, when everything has been chosen."""

import json

import pytest
from support.trained_runs import train_here

from trainer.commands import train as train_command
from trainer.config.compose import compose
from trainer.job.errors import ConfigError
from trainer.job.signals import StopRequest

TINY = ("+experiment=smoke", "model.hidden_sizes=[8]", "train.pictures_every_epochs=null")
WITHOUT = "data.validation_fraction=0"


def points(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(run):
    return json.loads((run / "summary.json").read_text())


def kept(run):
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_checkpoints_are_kept_by_the_validation_split(tmp_path):
    run = tmp_path / "run"
    options = (
        "train.epochs=6",
        "optim.lr=0.5",
        "optim.schedule=constant",
        "checkpoint.keep_last=1",
    )
    assert train_here(*TINY, *options, f"run.dir={run}") == 0
    by_split = {
        split: [(p["accuracy"], -p["step"]) for p in points(run) if p["split"] == split]
        for split in ("validation", "test")
    }
    assert len(by_split["validation"]) == 6
    assert len(by_split["test"]) == 1
    best = -max(by_split["validation"])[1]
    assert best != 342  # else the newest would hide whether it is kept
    assert kept(run) == [best, 342]


def test_without_a_validation_split_nothing_is_selected(tmp_path):
    run = tmp_path / "run"
    options = (
        "train.epochs=4",
        "optim.lr=0.5",
        "optim.schedule=constant",
        "checkpoint.keep_last=1",
    )
    assert train_here(*TINY, *options, WITHOUT, f"run.dir={run}") == 0
    assert [p["step"] for p in points(run) if p["split"] == "test"] == [63, 126, 189, 252]
    assert kept(run) == [252]
    assert "validation_examples" not in summary(run)["dataset"]
    assert summary(run)["validation_accuracy"] is None


def test_what_would_select_is_refused_without_a_validation_split(tmp_path):
    stopping = "train.stop_early.patience=1"
    with pytest.raises(ConfigError, match=rf"{stopping}: there is no validation split"):
        train_command.main([*TINY, WITHOUT, stopping, f"run.dir={tmp_path / 'run'}"], StopRequest())


def test_a_run_of_all_examples_resumes_by_the_option_that_its_refusal_names(tmp_path):
    run = tmp_path / "run"
    options = (*TINY, "train.epochs=2", f"run.dir={run}")
    assert train_here(*options, WITHOUT, "train.max_steps=63") == 0
    with pytest.raises(ConfigError) as refused:
        train_command.main([*options, "parallel.devices=1"], StopRequest())
    message = str(refused.value)
    assert "data.validation_fraction: 0 in the checkpoint, 0.1 in this configuration" in message
    assert f"{WITHOUT} continues it" in message
    assert train_here(*options, WITHOUT) == 0
    assert summary(run)["resumed_from_step"] == 63


def test_a_fraction_leaves_something_to_train_on():
    with pytest.raises(ConfigError, match=r"data\.validation_fraction=1.*use a number in \[0, 1\)"):
        compose(["+experiment=smoke", "data.validation_fraction=1"])
