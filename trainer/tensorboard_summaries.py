"""What TensorBoard's event files hold besides curves: pictures, layouts, HParams, texts."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from trainer.tensorboardx import HParamsPluginData, Status, Summary, summary

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
