"""Every experiment composes, and names and folders are taken as they stand."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from trainer.config.compose import compose, quoted
from trainer.job.resources import config_dir
from trainer.sweep import plan

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    (job,) = compose([f"+experiment={experiment}"])
    assert job.experiment == experiment
    assert f"+experiment={experiment}" in job.record["overrides.yaml"]
    assert OmegaConf.create(job.record["config.yaml"]).train.epochs == job.config.train.epochs


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_file_opens_with_its_command_and_what_it_reached(experiment):
    head = (config_dir() / "experiment" / f"{experiment}.yaml").read_text().splitlines()[:8]
    assert head[0] == "# @package _global_"
    assert head[1] == f"# python -m trainer +experiment={experiment}"
    assert "%" in " ".join(head)


def test_several_experiments_name_their_run_directory():
    words = ["+experiment=[smoke, mlp_notebook]", "data=mnist_5k"]
    (job,) = compose(words)
    assert job.experiment == "smoke+mlp_notebook"
    assert job.config.train.epochs == 50  # of the last
    (trial, _) = plan.make([*words, "run.seed=0,1"]).jobs
    assert Path(trial.config.run.dir).parts[-3] == job.experiment


@pytest.mark.parametrize(
    "text",
    ["12e4567", "2026_11_27", "1.10", "true", "rüv d", "a=b(c)", "it's", "b\\'c", "end\\", "a,b"],
)
def test_names_and_folders_are_taken_as_they_stand(text):
    (job,) = compose([f"run.name={text}", f"run.root=/tmp/{text}"])
    assert (job.config.run.name, job.config.run.root) == (text, f"/tmp/{text}")
    (again,) = compose([f"run.name={quoted(text)}"])  # as a shell hands over what is quoted
    assert again.config.run.name == text


def test_nothing_and_variables_are_still_hydras(monkeypatch):
    monkeypatch.setenv("WHERE", "there")
    (job,) = compose(["run.name=null", "run.root=${oc.env:WHERE}/x"])
    assert (job.config.run.name, job.config.run.root) == (None, "there/x")
