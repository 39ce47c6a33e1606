"""What the pages of TensorBoard get, as its own reader understands it."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata

from trainer.dashboard import pictures
from trainer.data.dataset import Dataset, Split
from trainer.functional import linear
from trainer.parallel.evaluation import Evaluation
from trainer.tasks import confusion
from trainer.tracking import summaries
from trainer.tracking import summaries as tensorboard_layout

RNG = np.random.default_rng(0)


@pytest.fixture
def dataset():
    split = Split(RNG.integers(0, 256, (50, 6 * 9), np.uint8), np.repeat(np.arange(5), 10))
    split = Split(split.images, split.labels.astype(np.uint8))
    return Dataset("idx", split, split, "", (6, 9))


def values(found):
    return {value.tag: value for summary in found for value in summary.value}


def pixels(value):
    with Image.open(io.BytesIO(value.image.encoded_image_string)) as image:
        assert image.size == (value.image.width, value.image.height)
        return np.asarray(image.convert("L"))


def test_the_most_confident_mistakes_come_first():
    labels = np.array([1, 2, 3, 4, 5], np.uint8)
    predictions = np.array([1, 7, 7, 7, 5], np.int32)
    found = Evaluation(0.0, 0.4, 5, predictions, np.array([1, 0.3, 0.9, 0.9, 1], np.float32))
    assert pictures.confidently_wrong(labels, found, 9).tolist() == [2, 3, 1]
    assert pictures.confidently_wrong(labels, found, 1).tolist() == [2]


@pytest.mark.parametrize("wrong", [0, 1, 50])
def test_an_evaluation_is_drawn_whatever_was_wrong(dataset, wrong):
    predictions = dataset.test.labels.astype(np.int32)
    predictions[:wrong] = (predictions[:wrong] + 1) % 5
    found = Evaluation(1.0, 1 - wrong / 50, 50, predictions, RNG.random(50).astype(np.float32))
    counts = confusion.count(dataset.test.labels, predictions, 5)
    drawn = values(pictures.evaluation(7, dataset, found, counts))
    assert set(drawn) == {
        f"pictures/{name}" for name in ("confusion_counts", "confusion_normalized", "most_wrong")
    }
    counted, shares = (
        pixels(drawn[f"pictures/confusion_{name}"]) for name in ("counts", "normalized")
    )
    assert counted.shape == shares.shape
    assert (counted != shares).any()
    assert set(values(pictures.inputs(dataset))) == {"pictures/inputs"}


def test_weights_are_counted_into_histograms_and_what_is_not_finite_is_left_out(dataset):
    layers = [
        linear.Weights(RNG.standard_normal((54, 40)), np.zeros(40)),
        linear.Weights(RNG.standard_normal((40, 5)), np.array([0, 1, 2, 3, np.nan])),
    ]
    found = values(pictures.weights(layers, dataset))
    assert set(found) == {
        "pictures/filters",
        *(f"weights/layer/{name}" for name in ("0/kernel", "0/bias", "1/kernel")),
    }
    histogram = found["weights/layer/0/kernel"].histo
    assert sum(histogram.bucket) == histogram.num == 54 * 40
    assert histogram.min == layers[0].kernel.min()
    assert pixels(found["pictures/filters"]).shape == (4 * (6 * 6 + 4), 9 * (6 * 9 + 4))
    layers[0].kernel[0, 0] = np.inf
    assert set(values(pictures.weights(layers, dataset))) == {
        f"weights/layer/{name}" for name in ("0/bias", "1/kernel")
    }


def test_the_layout_names_each_curve_in_one_chart():
    (value,) = summaries.layout(tensorboard_layout.CHARTS).value
    layout = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    patterns = {
        chart.title: list(chart.multiline.tag) for of in layout.category for chart in of.chart
    }

    def shown(tag):
        return [title for title, of in patterns.items() if any(re.match(p, tag) for p in of)]

    assert shown("train/loss") == shown("eval/loss") == ["loss"]
    assert shown("eval/accuracy") == ["accuracy"]
    assert shown("eval_class_accuracy/3") == ["accuracy by class"]
    assert shown("gradient_norm/layer/0/kernel") == ["gradient norms"]
    assert shown("time/compute_ms") == shown("time/rest_ms") == ["milliseconds a step"]
    assert shown("time/goodput") == ["goodput"]
    assert shown("memory/host") == ["memory, MiB"]
    assert shown("train/loss_of_another") == shown("train/lrx") == []


def test_hyperparameters_keep_their_types():
    values = {"a": True, "b": 2, "c": "512-512"}
    begun = summaries.hparams(values, ["eval/loss"], first=["c"])
    content = {value.tag: value.metadata.plugin_data.content for value in begun.value}
    start = metadata.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert start.hparams["a"].bool_value is True
    assert start.hparams["b"].number_value == 2
    assert start.hparams["c"].string_value == "512-512"
    experiment = metadata.parse_experiment_plugin_data(content["_hparams_/experiment"])
    infos = {info.name: info.differs for info in experiment.hparam_infos}
    assert infos == {"a": False, "b": False, "c": True}
    assert [metric.name.tag for metric in experiment.metric_infos] == ["eval/loss"]
    for failed, status in ((False, "STATUS_SUCCESS"), (True, "STATUS_FAILURE")):
        (end,) = summaries.ended(failed=failed).value
        assert end.tag == "_hparams_/session_end_info"
        found = metadata.parse_session_end_info_plugin_data(end.metadata.plugin_data.content)
        assert found.status == api_pb2.Status.Value(status)


def test_a_table_takes_whatever_an_environment_holds():
    facts = {"git": {"dirty": True, "deep": {"x": None}}, "command": ["a|b", "`c`\nd"], "n": 1}
    rows = summaries.table(facts).splitlines()
    assert len(rows) == 2 + 4
    assert "| git.deep.x | `null` |" in rows
    assert all(row.count("|") == 3 for row in rows)
    assert all(row.count("`") == 2 for row in rows[2:])
