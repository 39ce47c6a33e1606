"""What a run is, for TensorBoard: its configuration and environment, its charts, its HParams."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trainer.config.schema import Config
from trainer.tracking.tensorboard import HParamsPluginData, Status, Summary, Tracker, summary

# HParamInfo.differs = true, which tensorboardX's copy of TensorBoard's messages does not know yet.
_DIFFERS = b"\x38\x01"

HParams = Mapping[str, str | bool | int | float]


def image(tag: str, png: bytes, size: tuple[int, int]) -> Any:
    """Return a picture, of `size` (width, height)."""
    width, height = size
    content = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=content)])


def layout(charts: Mapping[str, Mapping[str, Sequence[str]]]) -> Any:
    """Return the layout of the page Custom Scalars: category -> chart -> tags.

    A tag is meant in full; `*` stands for any text. TensorBoard wants regular expressions.
    """
    categories = {
        category: {title: ["Multiline", list(map(_pattern, tags))] for title, tags in of.items()}
        for category, of in charts.items()
    }
    return summary.custom_scalars(categories)


def hparams(values: HParams, metrics: Sequence[str], first: Collection[str] = ()) -> Any:
    """Return what HParams shows of a run that begins.

    Args:
        values: name -> value; TensorBoard passes over anything but texts, booleans and numbers.
        metrics: the tags of the curves whose last values are shown.
        first: the names to show first: TensorBoard shows the others when they are ticked.
    """
    experiment, begun, _ = summary.hparams(dict(values), dict.fromkeys(metrics))
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        if info.name in first:
            info.MergeFromString(_DIFFERS)
    plugin.content = content.SerializeToString()
    return Summary(value=[*experiment.value, *begun.value])


def ended(*, failed: bool) -> Any:
    """Return what tells HParams that a run is completed, or has failed."""
    _, _, end = summary.hparams({}, {})
    plugin = end.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    if failed:
        content.session_end_info.status = Status.Value("STATUS_FAILURE")
    plugin.content = content.SerializeToString()
    return end


def code(text: str) -> str:
    """Return Markdown that shows a text as it is."""
    return "".join(f"    {line}\n" for line in text.splitlines())


def table(facts: Mapping[str, Any]) -> str:
    """Return a Markdown table of JSON; what is nested gets one row an entry."""
    rows = ["| what | value |", "|---|---|"]
    rows += [f"| {name} | `{_cell(value)}` |" for name, value in flatten(facts).items()]
    return "\n".join(rows)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"outer.inner": value} of mappings within mappings."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[|`\n]", " ", text)


def _pattern(tag: str) -> str:
    return "^" + re.escape(tag).replace(r"\*", ".*") + "$"


CHARTS = {
    "Training": {
        "loss": ["train/loss", "eval/loss"],
        "accuracy": ["train/accuracy", "eval/accuracy"],
        "learning rate": ["train/lr"],
        "accuracy by class": ["eval_class_accuracy/*"],
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
        "gradient norms": ["gradient_norm/*"],
    },
}
METRICS = ("eval/accuracy", "eval/loss")
# Of the hyperparameters: few, so that the accuracy stands beside them; others can be ticked.
FIRST = ("model.hidden_sizes", "optim.lr", "run.seed", "train.epochs")

_COMPARED = (
    "run.seed",
    "data.name",
    "data.shuffle",
    "train.epochs",
    "train.global_batch_size",
    "parallel.virtual_shards",
)


def hparams_of(config: Config, devices: int) -> HParams:
    """Return the options that make one training another; lists as texts like 512-512."""
    flat = flatten(dataclasses.asdict(config))
    names = [name for name in flat if name in _COMPARED or name.startswith(("model.", "optim."))]
    found: dict[str, str | bool | int | float] = {"devices": devices}
    for name in names:
        value = flat[name]
        if isinstance(value, list):
            value = "-".join(str(item) for item in value)
        found[name] = "none" if value is None else value
    return found


_BEGUN, _ENDED = "begun", "ended"  # what HParams shows of a start, in files that the next replaces


def write(
    tracker: Tracker,
    config: Config,
    before: Mapping[str, Any] | None,
    yaml: str,
    environment: Mapping[str, Any],
) -> None:
    """Describe a start of a run; what the starts before it wrote is not written again.

    Args:
        tracker: writes it.
        config: every option, now.
        before: the options when the checkpoint was saved from which this start goes on; None: the
            run is new.
        yaml: the configuration as a text.
        environment: what the start stands on; it is another one each time.
    """
    values = hparams_of(config, len(environment["devices"]))
    tracker.mark(_BEGUN, hparams(values, METRICS, FIRST))
    tracker.mark(_ENDED, None)
    if before is None:
        tracker.summary(0, layout(CHARTS))
    if before != json.loads(json.dumps(dataclasses.asdict(config))):
        tracker.text("configuration", code(yaml))
    tracker.text("environment", table(environment))


def end(tracker: Tracker, *, failed: bool) -> None:
    """Mark a run in HParams as completed or failed, until it goes on."""
    tracker.mark(_ENDED, ended(failed=failed))
