"""The experiments of the examples are complete, and their files short."""

from pathlib import Path

import jax
import pytest

from trainer.config import user_module
from trainer.config.compose import compose
from trainer.tasks import module

ROOT = Path(__file__).parents[2]
NAMES = sorted(folder.name for folder in (ROOT / "examples").iterdir() if folder.is_dir())
SHAPES = {"image": ((28, 28), "uint8"), "label": ((), "uint8")}  # where the data are MNIST's


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_its_experiment_makes_a_task(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "examples" / name / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 90
    command = f"--config-dir examples/{name} +experiment={name}"
    about = (ROOT / "examples" / name / "experiment" / f"{name}.yaml").read_text()
    assert f"# python -m trainer {command}\n" in about
    monkeypatch.setenv("TRAINER_CONFIG_DIR", str(ROOT / "examples" / name))  # as --config-dir does
    (job,) = compose([f"+experiment={name}"])
    assert job.experiment == name
    own = user_module.load("model.module", job.config.model.module)
    shapes = SHAPES
    if job.config.data.name == "module":
        train = own.load(job.config.data.options).train
        shapes = {field: (x.shape[1:], x.dtype) for field, x in train.items()}
    spec = {field: jax.ShapeDtypeStruct(*shape) for field, shape in shapes.items()}
    task = module.make(own, job.config.model.options, spec)
    if job.config.checkpoint.best is not None:
        assert job.config.checkpoint.best.partition(":")[0] in task.metric_names
