"""Images in RGB of 300 classes: trained, resumed, tested, predicted and exported as MNIST is."""

import json

import numpy as np
import pytest
from PIL import Image
from support.trained_runs import train_here

from trainer.commands import evaluate, predict
from trainer.config.compose import compose
from trainer.data.report import Report
from trainer.export import command as export
from trainer.formats import idx
from trainer.job.errors import DataError
from trainer.job.signals import StopRequest
from trainer.sources.load import load
from trainer.sources.mnist import FILES
from trainer.tasks import make

OWN = """
import jax.numpy as jnp


def init(key, example, options):
    return jnp.zeros((4, 7))


def fwd(example, weights, options):
    return example["image"].astype("float32").reshape(4) @ weights
"""
CLASSES = 300
DRAW = np.random.default_rng(0)
LABELS = np.arange(900) % CLASSES
COLOURS = DRAW.integers(0, 256, (CLASSES, 6, 5, 3))
IMAGES = (COLOURS[LABELS] * 0.9 + DRAW.integers(0, 25, (900, 6, 5, 3))).astype(np.uint8)


def as_idx(folder):
    folder.mkdir()
    for file, array in zip(
        FILES, (IMAGES, LABELS.astype(">i2"), IMAGES[:300], LABELS[:300].astype(">i2")), strict=True
    ):
        name = file.replace("idx3", "idx4")
        (folder / name).write_bytes(idx.header(array.shape, array.dtype) + array.tobytes())
    return "data=idx", f"data.num_classes={CLASSES}"


def as_arrays(folder):
    folder.mkdir()
    for name, array in (("image", IMAGES), ("label", LABELS)):
        np.save(folder / f"train_{name}.npy", array)
        np.save(folder / f"test_{name}.npy", array[:300])
    return ("data=arrays",)


@pytest.mark.parametrize("write", [as_idx, as_arrays])
def test_from_training_to_export(write, tmp_path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    options = [*write(data), f"data.root={data}", "+experiment=smoke", "model.hidden_sizes=[32]"]
    options += ["optim.schedule=constant", "optim.lr=0.1", f"run.dir={run}"]
    assert train_here(*options, "train.epochs=8") == 0
    assert train_here(*options, "train.epochs=16") == 0  # resumes
    summary = json.loads((run / "summary.json").read_text())
    assert summary["resumed_from_step"] == 8 * 13
    assert summary["test_accuracy"] > 0.9
    capsys.readouterr()

    assert evaluate.main([str(run), "--json"], StopRequest()) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accuracy"] == summary["test_accuracy"]
    assert len(report["classes"]) == CLASSES

    for number in range(3):
        Image.fromarray(IMAGES[number]).save(tmp_path / f"{number}.png")
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    seen = str(tmp_path / "seen.png")
    assert predict.main([str(run), *files, "--json", "--show", seen], StopRequest()) == 0
    predictions = json.loads(capsys.readouterr().out)["predictions"]
    assert [len(entry["probabilities"]) for entry in predictions] == [CLASSES] * 3

    assert export.main([str(run), str(tmp_path / "exported")], StopRequest()) == 0
    card = (tmp_path / "exported" / "MODEL_CARD.md").read_text()
    assert "| input `image` | uint8 | N x 6 x 5 x 3 |" in card
    assert "which of 300 classes an example belongs to: 0 to 299." in card


@pytest.mark.parametrize("model", ["mlp", "own"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_that_is_no_class_is_named(model, split, label, tmp_path):
    """It would have no loss, and training would seem to go well."""
    labels = np.arange(20) % 7
    for name in ("train", "test"):
        wrong = np.where(np.arange(20) == 5, label, labels) if name == split else labels
        np.save(tmp_path / f"{name}_image.npy", np.arange(20 * 4, dtype=np.uint8).reshape(20, 2, 2))
        np.save(tmp_path / f"{name}_label.npy", wrong)
    (tmp_path / "own.py").write_text(OWN)
    options = ["model=module", f"model.module={tmp_path}/own.py"] if model == "own" else []
    options += ["data.num_classes=7"] if model == "mlp" else []
    options += ["data.validation_fraction=0"]
    (job,) = compose(["data=arrays", f"data.root={tmp_path}", *options])
    quiet = Report(lambda *_: None, lambda: None, pytest.fail)
    dataset = load(job.config.data, quiet)
    message = f"data set arrays, {split}: label {label} at index 5: expected 0 to 6: correct the la"
    with pytest.raises(DataError, match=message):
        make.make(job.config.model, job.config.data, dataset)
