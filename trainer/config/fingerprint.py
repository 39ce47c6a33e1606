"""The fingerprint of a configuration: the options that must not change when a run resumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config.schema import Config, as_json

# Single options and whole sections. With another value, the weights would be other weights.
FINGERPRINT = (
    *("run.seed", "run.legacy_prng"),
    *("data.num_classes", "data.validation_fraction", "data.shuffle", "data.weights"),
    *("data.pixel_mean", "data.pixel_std"),
    *("model", "optim"),
    *("train.global_batch_size", "train.accumulate", "train.limit_steps", "train.overfit_batches"),
    *("parallel.virtual_shards", "parallel.reduce_dtype"),
    "ema.decay",
    *("init.run", "init.step", "init.map", "init.freeze"),
    *("augment.shift", "augment.crop", "augment.flip", "augment.cutout", "augment.mixup"),
)
# With these values, training is what it was before there were these options.
NEUTRAL: dict[str, Any] = {
    "data.validation_fraction": 0,
    "data.weights": {},
    "parallel.reduce_dtype": "float32",
    "train.accumulate": 1,
    **dict.fromkeys(("train.limit_steps", "train.overfit_batches", "ema.decay")),
    **{"init.run": None, "init.step": None, "init.map": [], "init.freeze": []},
    **dict.fromkeys(("augment.shift", "augment.crop", "augment.cutout", "augment.mixup")),
    "augment.flip": False,
}


def fingerprint(config: Config, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return, as JSON, all that determines the weights of a run; `dataset` describes its data."""
    options = select(as_json(config), FINGERPRINT)
    options = {k: v for k, v in options.items() if k not in NEUTRAL or v != NEUTRAL[k]}
    if config.init.run is not None:  # the folder may be moved
        options["init.run"] = Path(config.init.run).name
    for section in ("model", "optim"):
        part = options[section]
        if part.get("module"):  # the file may be moved
            part = {**part, "module": Path(part["module"]).name}
        # Without what is not used, also by runs from before there was such an option.
        options[section] = {k: v for k, v in part.items() if v is not None and v != {}}
    if config.optim.schedule != "constant":  # the schedule is stretched over all epochs
        options["train.epochs"] = config.train.epochs
    return {**options, "data set": dict(dataset)}


def select(options: Mapping[str, Any], paths: tuple[str, ...]) -> dict[str, Any]:
    """Return path -> value of some options or whole sections.

    Where one is missing, it is what it was before there was such an option, or None.
    """
    values = {}
    for path in paths:
        section, _, field = path.partition(".")
        value = options.get(section)
        values[path] = (value or {}).get(field, NEUTRAL.get(path)) if field else value
    return values


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], place: str = "the checkpoint"
) -> list[str]:
    """Return a line for each option that is not the same in `place` and in this configuration."""
    lines = []
    for path in {**before, **now}:
        was, is_ = (options.get(path, NEUTRAL.get(path)) for options in (before, now))
        was, is_ = (None if value == {} else value for value in (was, is_))
        if isinstance(was, dict) and isinstance(is_, dict):
            lines += [f"{path}.{line}" for line in differences(was, is_, place)]
        elif was != is_:
            lines.append(f"{path}: {was} in {place}, {is_} in this configuration")
    return lines
