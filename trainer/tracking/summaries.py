"""Contents for TensorBoard: pictures, histograms, charts, HParams, the texts about a start."""

import json
import re
import struct
from collections.abc import Mapping
from textwrap import indent
from typing import Any

from trainer.config.schema import Config, as_json
from trainer.tracking import tensorboard as tb
from trainer.tracking.tensorboard import Summary, Tracker, summary

histogram = summary.histogram  # (tag, values, bins)

HParams = Mapping[str, str | bool | int | float]

# Category -> chart -> tags of the page Custom Scalars; * stands for any text.
CHARTS = {
    "Training": {
        "loss": ["train/loss", "validation/loss", "test/loss"],
        "accuracy": ["train/accuracy", "validation/accuracy", "test/accuracy"],
        "learning rate": ["train/lr"],
    },
    "Speed": {
        "examples per second": ["train/examples_per_second"],
        "milliseconds a step": ["time/*_ms"],
        "goodput": ["time/goodput"],
        "seconds of all starts": ["seconds/*"],
        "memory, MiB": ["memory/*"],
    },
    "Layers": {
        "weight norms": ["weight_norm/*"],
        "gradient norms": ["train/gradient_norm", "gradient_norm/*"],
    },
}
# Beside the hyperparameters.
METRICS = ("validation/accuracy", "validation/loss", "test/accuracy", "test/loss")
# Hyperparameters that HParams shows from the start: few, so that the accuracy is near them.
SHOWN = ("model.hidden_sizes", "optim.lr", "run.seed", "train.epochs")
_COMPARED = (
    *("run.seed", "data.name", "data.shuffle", "train.epochs", "train.global_batch_size"),
    "parallel.virtual_shards",
)


def write_start(
    tracker: Tracker,
    config: Config,
    dataset: str,
    before: Mapping[str, Any] | None,
    yaml: str,
    environment: Mapping[str, Any],
) -> None:
    """Describe a start of a run: its hyperparameters, data set, options (`yaml`) and environment.

    `before` has the options in the restored checkpoint, None if the run is new: the text is written
    only if they have changed.
    """
    start = hparams({**hparams_of(config, len(environment["devices"])), "data.name": dataset})
    tracker.summary(tb.THIS_START, start)
    if before is None:
        tracker.summary(0, layout())
    if before != as_json(config):
        tracker.text("configuration", indent(yaml, "    "))  # as code
    tracker.text("environment", indent(json.dumps(environment, indent=2), "    "))


def write_end(tracker: Tracker, *, failed: bool) -> None:
    """Mark a run in HParams as completed or failed, until it resumes."""
    status = tb.Status.Value("STATUS_FAILURE" if failed else "STATUS_SUCCESS")
    _, _, end = summary.hparams({}, {})
    content = tb.HParamsPluginData(version=0, session_end_info=tb.SessionEndInfo(status=status))
    end.value[0].metadata.plugin_data.content = content.SerializeToString()
    tracker.summary(tb.THIS_START, end)


def image(tag: str, png: bytes) -> Any:
    """Return a picture from a PNG file."""
    width, height = struct.unpack(">II", png[16:24])  # of its first chunk, IHDR
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=content)])


def layout() -> Any:
    """Return the layout of the page Custom Scalars, which wants regular expressions."""
    return summary.custom_scalars(
        {
            category: {
                title: ["Multiline", [f"^{re.escape(t)}$".replace(r"\*", ".*") for t in tags]]
                for title, tags in charts.items()
            }
            for category, charts in CHARTS.items()
        }
    )


def hparams(values: HParams) -> Any:
    """Return what HParams shows of a run: hyperparameters, and the last values of METRICS."""
    experiment, start, _ = summary.hparams(dict(values), dict.fromkeys(METRICS))
    plugin = experiment.value[0].metadata.plugin_data
    content = tb.HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        if info.name in SHOWN:  # field 7, differs=True, which tensorboardX's messages lack
            info.MergeFromString(b"\x38\x01")
    plugin.content = content.SerializeToString()
    return Summary(value=[*experiment.value, *start.value])


def hparams_of(config: Config, devices: int) -> HParams:
    """Return the options in which trainings differ; lists become texts like 512-512."""
    values: dict[str, str | bool | int | float] = {"devices": devices}
    for section, options in as_json(config).items():
        flat = {f"{section}.{option}": value for option, value in options.items()}
        for option, value in (flat.pop(f"{section}.options", None) or {}).items():
            flat[f"{section}.options.{option}"] = value  # of the user's module
        for name, value in flat.items():
            if name in _COMPARED or (
                section in ("model", "optim", "augment") and value is not None
            ):
                text = "-".join(map(str, value)) if isinstance(value, list) else value
                is_plain = isinstance(text, str | bool | int | float)
                values[name] = text if is_plain else "none" if text is None else str(text)
    return values
