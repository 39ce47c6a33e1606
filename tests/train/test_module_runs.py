"""Whole runs of a user's own module: they keep every promise that runs of the MLP keep."""

import json
import re

import pytest
from support.in_process import StopAfter, points_of, summary_of, train

IMPORTS = "import jax\nimport jax.numpy as jnp\nfrom dataclasses import dataclass\n"
CLASSIFIER = f"""{IMPORTS}
@dataclass
class Options:
    width: int = 8

def init(key, example, options):
    first, second = jax.random.split(key)
    pixels = example["image"].size
    return {{
        "hidden": 0.05 * jax.random.normal(first, (pixels, options.width)),
        "out": {{"w": jax.random.normal(second, (options.width, 10)), "b": jnp.zeros(10)}},
    }}

def fwd(example, weights, options):
    x = example["image"].astype(jnp.float32).reshape(-1) / 255
    x = jax.nn.relu(x @ weights["hidden"])
    return x @ weights["out"]["w"] + weights["out"]["b"]
"""
WITH_DROPOUT = CLASSIFIER.replace("weights, options):", "weights, options, key):").replace(
    '    return x @ weights["out"]["w"]',
    "    if key is not None:\n"
    "        x = 2 * x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)\n"
    '    return x @ weights["out"]["w"]',
)
RUN = (
    *("data=mnist_5k", "model=module", "model.module=mine.py", "optim=adamw", "run.dir=run"),
    *("train.global_batch_size=100", "train.epochs=2", "train.log_every_steps=11"),
    "train.pictures_every_epochs=null",
)
SAME = ("status", "steps", "weights_sha256", "test_loss", "test_accuracy")


@pytest.fixture
def write(tmp_path):
    """Write a file into a folder."""

    def write(text, name="mine.py", folder=tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (CLASSIFIER, ("optim.clip_norm=0.5", "optim.lr=0.01")),
        (WITH_DROPOUT, ("model.options.width=32", "optim.lr=0.01")),
    ],
    ids=["classifier", "dropout"],
)
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, write, text, options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        write(text, folder=folder)
    done = train(whole, *RUN, *options, "train.steps_per_dispatch=5")
    assert done.returncode == 0, done.stderr
    # Three questions come before training, then there is one a dispatch.
    stopped = train(broken, *RUN, *options, "train.steps_per_dispatch=4", stop=StopAfter(9))
    assert stopped.returncode == 75, stopped.stderr
    before = summary_of(broken)
    assert 0 < before["steps"] < 80
    assert before["steps"] % 40  # within an epoch
    done = train(broken, *RUN, *options, "train.steps_per_dispatch=5")
    assert done.returncode == 0, done.stderr
    expected, after = summary_of(whole), summary_of(broken)
    assert after["resumed_from_step"] == before["steps"]
    assert {key: after[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert points_of(broken) == points_of(whole)
    assert after["test_accuracy"] > 0.5  # it has learnt
    assert (broken / "run" / ".hydra" / "mine.py").read_text() == text


REGRESSION = f"""{IMPORTS}
import numpy as np
from enum import Enum
from trainer.data.dataset import Dataset

class Norm(Enum):
    square = "s"
    absolute = "a"

@dataclass
class Options:
    norm: Norm = Norm.square

def init(key, example, options):
    return [jnp.zeros(example["x"].shape), 0.0]  # a number becomes an array

def fwd(example, weights, options):
    assert options.norm is Norm.absolute
    return jnp.dot(example["x"], weights[0]) + weights[1]

def loss(output, example):
    return jnp.square(output - example["y"])

def metrics(output, example):
    return {{"error": jnp.abs(output - example["y"])}}

@dataclass
class DataOptions:
    examples: int = 96

def load(options):
    rng = np.random.default_rng(0)
    def split(count):
        x = rng.normal(size=(count, 4))
        return {{"x": x, "y": x @ [1.0, 2.0, 3.0, 4.0] + 5}}
    return Dataset("planes", split(options.examples), split(30))
"""
OWN = (
    *("model=module", "model.module=mine.py", "data=module", "data.module=mine.py"),
    *("model.options.norm=absolute", "data.options.examples=100", "train.global_batch_size=16"),
    *("train.steps_per_dispatch=4", "run.dir=run", "optim.lr=0.05", "checkpoint.keep_last=1"),
    "train.pictures_every_epochs=null",
)


def test_a_task_with_its_own_loss_metric_and_data(tmp_path, write):
    write(REGRESSION)
    done = train(tmp_path, *OWN, "train.epochs=8")
    assert done.returncode == 0, done.stderr
    summary = summary_of(tmp_path)
    assert summary["dataset"]["name"] == "planes"
    assert summary["dataset"]["train_examples"] == 90
    assert summary["metrics"] == ["loss", "error"]
    assert summary["best"] == "loss:min"
    assert summary["test_accuracy"] is None
    assert summary["test_loss"] < 0.1
    assert 0 < summary["test_error"] < 0.3
    points = points_of(tmp_path)
    tested = [p for p in points if p["split"] == "validation"]
    assert tested[-1]["error"] == summary["validation_error"]
    assert all({"loss", "error", "lr"} <= set(p) for p in points if p["split"] == "train")
    assert re.search(f"^test error +{summary['test_error']:.4f}$", done.stderr, re.MULTILINE)
    # The best checkpoint is that of the lowest loss.
    best = min(tested, key=lambda point: point["loss"])["step"]
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {best, summary["steps"]}


def test_the_random_numbers_of_training_are_those_of_the_seed(tmp_path, write):
    """Nothing else in these runs depends on it: the weights begin with 0, the order is fixed."""
    noisy = REGRESSION.replace("weights, options):", "weights, options, key):").replace(
        "    return jnp.dot(",
        "    if key is not None:\n"
        '        example = {**example, "x": example["x"] + jax.random.normal(key, (4,))}\n'
        "    return jnp.dot(",
    )
    write(noisy)
    weights = set()
    for seed in (0, 1):
        run = ("train.epochs=1", "data.shuffle=false", f"run.seed={seed}", f"run.dir=run{seed}")
        done = train(tmp_path, *OWN, *run)
        assert done.returncode == 0, done.stderr
        weights.add(summary_of(tmp_path, f"run{seed}")["weights_sha256"])
    assert len(weights) == 2


def test_fewer_logits_than_classes_and_a_batch_of_all_examples_are_named(tmp_path, write):
    write(CLASSIFIER)
    own = ("model=module", "model.module=mine.py", "data=mnist_5k", "train.epochs=1", "run.dir=run")
    names = "data.class_names=[a,b,c,d,e,f,g,h,i,j,k,l]"
    done = train(tmp_path, *own, "data.num_classes=12", names)
    assert done.returncode == 78
    assert "mine.py: fwd returns 10 logits, and the data have 12 classes: a, b" in done.stderr
    done = train(tmp_path, *own, "train.global_batch_size=5000", "run.dir=large")
    assert done.returncode == 0, done.stderr
    assert "train.global_batch_size=5000: there are 3,600 training examples" in done.stderr


def test_the_metric_of_checkpoint_best_has_to_be_one_of_the_task(tmp_path, write):
    write(REGRESSION)
    done = train(tmp_path, *OWN, "checkpoint.best=accuracy:max")
    assert done.returncode == 78
    message = "checkpoint.best=accuracy:max: the task has no such metric: use one of loss, error"
    assert message in done.stderr
    assert summary_of(tmp_path)["error"] == message  # for `runs`


def test_a_module_that_has_changed_is_named_when_the_run_resumes(tmp_path, write):
    write(REGRESSION)
    constant = (*OWN, "optim.schedule=constant")
    assert train(tmp_path, *constant, "train.epochs=1").returncode == 0
    again = train(tmp_path, *constant, "train.epochs=2")
    assert "has changed" not in again.stderr
    moved = tmp_path / "moved"
    write(REGRESSION + "# another line\n", folder=moved)
    third = (*constant, "train.epochs=3", "model.module=moved/mine.py")
    done = train(tmp_path, *third, "data.module=moved/mine.py")
    assert done.returncode == 0, done.stderr
    message = (
        "model.module=moved/mine.py or a file that it imports has changed since the last check"
    )
    assert message in done.stderr
    record = json.loads((tmp_path / "run" / "checkpoints" / "18" / "record.json").read_text())
    assert record["module"] == str(moved / "mine.py")


def test_a_mistake_in_the_module_ends_with_78_and_its_line(tmp_path, write):
    write(REGRESSION.replace("jnp.square(output - example", "jnp.square(outptu - example"))
    done = train(tmp_path, *OWN)
    assert done.returncode == 78
    assert "NameError: name 'outptu' is not defined" in done.stderr
    assert "mine.py:25: return jnp.square(outptu" in done.stderr


@pytest.mark.parametrize(
    "optimizer", [("optim=muon",), ("optim=optax", "optim.name=adafactor")], ids=" ".join
)
def test_the_mlp_with_an_optimizer_whose_state_is_not_like_the_weights(tmp_path, optimizer):
    """Then the MLP keeps its weights in the usual layout while steps run."""
    done = train(tmp_path, "+experiment=smoke", *optimizer, "train.epochs=1", "run.dir=run")
    assert done.returncode == 0, done.stderr
