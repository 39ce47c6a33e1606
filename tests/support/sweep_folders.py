"""What trials leave in the folder of a sweep, without training anything."""

import json
from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from trainer.config.compose import compose_each
from trainer.sweep import plan


def make(*overrides):
    return plan.make(["+experiment=smoke", *overrides])


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def finish(trial, accuracy=0.5, *changes):
    """Leave behind what a finished trial does, but for changes to its options."""
    folder = Path(trial.overrides[-1].removeprefix("run.dir='").removesuffix("'"))
    write(folder / "summary.json", status="completed", validation_accuracy=accuracy, started=1.0)
    config = OmegaConf.create(smoke(*changes))
    for option, value in trial.values.items():
        OmegaConf.update(config, option, yaml.safe_load(value))
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(config))


@cache
def smoke(*overrides):
    (job,) = compose_each([["+experiment=smoke", *overrides]])
    return job.record["config.yaml"]
