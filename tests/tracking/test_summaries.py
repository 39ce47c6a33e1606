"""What the pages of TensorBoard get, as its own reader understands it."""

import re

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from trainer.tracking import summaries


def test_the_layout_names_each_curve_in_one_chart():
    (value,) = summaries.layout().value
    layout = layout_pb2.Layout.FromString(value.tensor.string_val[0])
    patterns = {
        chart.title: list(chart.multiline.tag) for of in layout.category for chart in of.chart
    }

    def shown(tag):
        return [title for title, of in patterns.items() if any(re.match(p, tag) for p in of)]

    assert shown("train/loss") == shown("validation/loss") == ["loss"]
    assert shown("validation/accuracy") == ["accuracy"]
    assert (
        shown("validation_class_accuracy/3") == []
    )  # a line for each class and run: see the picture
    assert shown("gradient_norm/layer/0/kernel") == ["gradient norms"]
    assert shown("time/compute_ms") == shown("time/rest_ms") == ["milliseconds a step"]
    assert shown("time/goodput") == ["goodput"]
    assert shown("memory/host") == ["memory, MiB"]
    assert shown("train/loss_of_another") == shown("train/lrx") == []


def test_hyperparameters_keep_their_types():
    values = {"a": True, "b": 2, "optim.lr": "512-512"}
    started = summaries.hparams(values)
    content = {value.tag: value.metadata.plugin_data.content for value in started.value}
    start = metadata.parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert start.hparams["a"].bool_value is True
    assert start.hparams["b"].number_value == 2
    assert start.hparams["optim.lr"].string_value == "512-512"
    experiment = metadata.parse_experiment_plugin_data(content["_hparams_/experiment"])
    infos = {info.name: info.differs for info in experiment.hparam_infos}
    assert infos == {"a": False, "b": False, "optim.lr": True}
    tags = [metric.name.tag for metric in experiment.metric_infos]
    assert tags == ["validation/accuracy", "validation/loss", "test/accuracy", "test/loss"]
