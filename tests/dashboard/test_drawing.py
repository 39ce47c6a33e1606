"""The pictures and histograms of an evaluation."""

import io

import numpy as np
import pytest
from PIL import Image
from support.trained_runs import train_here

from trainer.dashboard import drawing
from trainer.data.dataset import Dataset
from trainer.functional import linear
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import pictures

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(5, dtype=np.uint8), 10)


@pytest.fixture
def dataset():
    split = {"image": RNG.integers(0, 256, (50, 6, 9), np.uint8), "label": LABELS}
    return Dataset("idx", split, split)


def filters(weights):
    return weights[0].kernel.T.reshape(-1, 6, 9)


def drawn(contents):
    """Return tag -> value; the pictures have the size that they claim."""
    values = {value.tag: value for content in contents for value in content.value}
    for tag, value in values.items():
        if tag.startswith("pictures/"):
            with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
                assert image.size == (value.image.width, value.image.height)
    return values


def test_inputs_are_drawn(dataset):
    assert set(drawn(drawing.inputs(dataset))) == {"pictures/inputs"}


def test_an_evaluation_is_drawn_and_what_is_not_finite_is_left_out(dataset):
    predictions = {"class": LABELS.astype(np.int32), "confidence": RNG.random(50)}
    result = Evaluation({"loss": 1.0, "accuracy": 1.0}, 50, predictions)
    counts = pictures.confusion_counts(dataset.test, predictions)
    layers = [
        linear.Weights(RNG.standard_normal((54, 40), np.float32), np.zeros(40, np.float32)),
        linear.Weights(RNG.standard_normal((40, 5)), np.array([0, 1, 2, 3, np.nan])),
    ]

    def draw(filters=filters):
        contents = drawing.evaluation("test", 7, dataset.test, result, counts)
        return drawn(contents + drawing.weights_of(layers, filters))

    values = draw()
    names = ("confusion_counts", "confusion_normalized", "class_accuracy", "most_wrong")
    always = {*(f"pictures/test_{name}" for name in names), "weights/0/bias"}
    always |= {"weights/1/kernel"}
    assert set(values) == always | {"pictures/filters", "weights/0/kernel"}
    histogram = values["weights/0/kernel"].histo
    assert sum(histogram.bucket) == histogram.num == 54 * 40
    assert histogram.min == layers[0].kernel.min()
    layers[0].kernel[0, 0] = np.inf
    assert set(draw()) == set(draw(filters=None)) == always


def test_a_task_without_images_and_classes_has_histograms():
    split = {"x": RNG.random((5, 2)), "y": RNG.random(5)}
    assert drawing.inputs(Dataset("numbers", split, split)) == []
    result, weights = Evaluation({"loss": 1.0}, 5, {}), {"w": np.ones((2, 3))}
    assert drawing.evaluation("test", 7, split, result, None) == []
    assert set(drawn(drawing.weights_of(weights, None))) == {"weights/w"}


def test_a_drawing_that_fails_ends_nothing(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no ink")

    monkeypatch.setattr(drawing, "evaluation", fail)
    assert train_here("+experiment=smoke", "train.epochs=1", f"run.dir={tmp_path}") == 0
    message = "TensorBoard misses pictures, training continues: no ink"
    assert message in capsys.readouterr().err


def test_each_split_is_drawn_in_a_colour():
    points = [{"split": "train", "step": i, "time": i, "lr": 1.0, "loss": 2.0} for i in range(9)]
    for split in ("validation", "test"):
        points += [{"split": split, "step": 9, "time": 9, "loss": 1.0, "accuracy": 0.5}]
        points += [{"split": split, "step": 4, "time": 9, "loss": float("nan"), "accuracy": 0.5}]
    for watched, other in (("validation", "test"), ("test", "validation")):
        (value,) = drawn(drawing.curves(points, watched, 9)).values()
        with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
            assert image.size == (550, 60 + 210)  # the loss: nothing else is of both
            pixels = np.asarray(image.convert("RGB")).astype(int)
        for split in ("train", watched):
            shade = np.abs(pixels - [255 * part for part in drawing.COLOURS[split]]).max(axis=-1)
            assert (shade < 3).sum() > 20
        blue = np.abs(pixels - [255 * part for part in drawing.COLOURS["validation"]]).max(axis=-1)
        assert (blue < 3).any() == (other == "test")
    assert drawing.curves(points[:9], "test", 9) == []
