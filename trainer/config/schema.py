"""Every option with its type, and the rules that need nothing but the configuration itself.

The dataclasses have no defaults: every value stands once, in conf/. Nothing here uses a device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import pairwise
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore

from trainer.config.redact import redacted
from trainer.config.rules import (
    Section,
    check,
    finite,
    folder,
    fraction,
    is_visible,
    one_of,
    own,
    positive,
    ruled,
    whole,
    whole_or_auto,
)
from trainer.job.errors import EXIT_COMPLETED, EXIT_RETRY, ConfigError

FLOAT32_MAX = (2 - 2**-23) * 2.0**127


@dataclass(kw_only=True)
class RunConfig(Section):
    """Which run this is, and where its directory is."""

    name: str | None = ruled(
        lambda name: name not in ("", ".", "..") and not {*name} & {*"/\0"} and is_visible(name),
        "use a plain folder name in UTF-8, without slashes, invisible characters or outer spaces",
    )
    dir: str | None = folder()
    root: str = folder()
    seed: int = whole(0, 2**32 - 1)
    quiet: bool
    legacy_prng: bool


PICTURES, ONE_FILE = ("images", "huggingface"), ("table", "text", "records")
NEED_ROOT = ("idx", "arrays", *PICTURES, *ONE_FILE)
MIXED = ("mnist", "mnist_5k", *NEED_ROOT)  # what a mixture can be made of
DATA_NAMES = (*MIXED, "mixture", "module")


@dataclass(kw_only=True)
class DataConfig(Section):
    """Which data set, where it comes from, and in which order it is read."""

    name: str = one_of(*DATA_NAMES)
    module: str | None = ruled(of=("module",), example="FILE.py")
    options: Any = own(of=("module",))  # its dataclass DataOptions
    root: str | None = folder()
    manifest: str | None = ruled(lambda name: name != "", "name a file, like SHA256SUMS")
    cache_dir: str = folder()
    mirrors: list[str]
    sha256: dict[str, str]
    download: bool
    offline_fallback: bool
    timeout_seconds: float = positive()
    num_classes: int | None = whole(2)  # of images; null for a module and arrays
    class_names: list[str] | None = ruled(
        lambda names: all(map(is_visible, names)) and 1 < len({*names}) == len(names),
        "use one name for each class, all different, like [cat,dog]",
    )
    image_size: list[int] | None = ruled(
        lambda size: len(size) == 2 and all(0 < side < 2**15 for side in size),
        "use two sizes in pixels, rows and columns, like [32,32]",
        of=PICTURES,
    )
    channels: int | None = ruled(
        lambda n: n in (1, 3), "use 1 for grey, or 3 for RGB", of=PICTURES, example="3"
    )
    test_fraction: float | None = fraction(of=(*PICTURES, *ONE_FILE), example="0.2")
    columns: list[str] | None = ruled(
        lambda names: 0 < len({*names}) == len(names),
        "name at least one, each once",
        of=("huggingface",),
    )
    validation_fraction: float = fraction()
    shuffle: bool
    pixel_mean: float | None = finite()
    pixel_std: float | None = positive()
    label: str | None = ruled(of=("table",), example="COLUMN")
    features: list[str] | None = ruled(of=("table",))
    categories: list[str] | None = ruled(of=("table",))
    regression: bool | None = ruled(of=("table",))
    window: int | None = whole(1, of=("text",), example="128")
    stride: int | None = whole(1, of=("text",))
    sets: dict[str, Any] | None = ruled(  # the options of each, complete once they are composed
        lambda sets: all(isinstance(s, dict) and s.get("name") in MIXED for s in sets.values()),
        f"give sets by name, each with a name of its own: data.sets.SET.name={'|'.join(MIXED)}",
        of=("mixture",),
        example="{a: {name: arrays, root: DIR}}",
    )
    weights: dict[str, float] | None = ruled(
        lambda weights: all(math.isfinite(x) and x > 0 for x in weights.values()),
        "use finite numbers above 0",
        of=("mixture",),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sets = self.sets or {}
        for name, weight in (self.weights or {}).items():
            rule = f"no set has that name: data.sets has {', '.join(sets)}"
            check(name in sets, f"data.weights.{name}", weight, rule)
        for number, mirror in enumerate(self.mirrors):
            option = f"data.mirrors[{number}]"
            if re.match("[^/]*//[^/]*@", mirror):  # the run directory and logs would show it
                raise ConfigError(f"{option} contains credentials", "use a URL without them")
            rule = "use a URL that begins with https:// or http://"
            check(re.match("https?://[^/]", mirror) is not None, option, mirror, rule)
        needs_root = self.name in NEED_ROOT and self.root is None
        check(not needs_root, "data.root", None, f"data={self.name} needs it: data.root=DIR")
        rule = "name the folder of its files: data.root=DIR"
        check(self.manifest is None or self.root is not None, "data.manifest", self.manifest, rule)
        if None not in (self.class_names, self.num_classes):
            rule = f"data.num_classes={self.num_classes}: give a name for each class"
            right = len(self.class_names or ()) == self.num_classes
            check(right, "data.class_names", self.class_names, rule)


def data_config(given: Mapping[str, Any]) -> DataConfig:
    """Return the options data.* of a run, perhaps of a version that had fewer."""
    given = {"options": {}, **given}
    options: dict[str, Any] = {of.name: given.get(of.name) for of in fields(DataConfig)}
    return DataConfig(**options)


def of_mlp(*choices: str) -> Any:
    """Return a field for one of some words, which only the built-in MLP has."""
    return one_of(*choices, of=("mlp",), example=choices[0])


@dataclass(kw_only=True)
class ModelConfig(Section):
    """The network and its loss."""

    name: str = one_of("mlp", "module")
    remat: int | None = whole(2)
    module: str | None = ruled(of=("module",), example="FILE.py")
    options: Any = own(of=("module",))  # its dataclass Options
    hidden_sizes: list[int] | None = ruled(
        lambda sizes: bool(sizes) and all(0 < size < 2**31 for size in sizes),
        "use at least one size, each above 0, like model.hidden_sizes=[512,512]",
        of=("mlp",),
        example="[512,512]",
    )
    kernel_initializer: str | None = of_mlp("he_normal", "glorot_uniform")
    pixels: str | None = of_mlp("standardized", "raw")
    loss: str | None = of_mlp("softmax_crossentropy", "clipped_crossentropy")
    precision: str | None = of_mlp("float32", "tf32", "bfloat16")

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.remat is None or self.precision != "bfloat16"
        rule = "it does not go with model.precision=bfloat16: leave one out"
        check(fits, "model.remat", self.remat, rule)


DECAYS = ("warmup_linear", "warmup_cosine", "warmup_stable_decay")
PIECEWISE: dict[str, Any] = {"by": "schedule", "of": ("piecewise",)}


@dataclass(kw_only=True)
class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: str | None  # sgd, a function of optax, or the import path of one like it
    options: Any = own()
    lr: float = ruled(
        lambda lr: 0 < lr <= FLOAT32_MAX, f"use a finite number above 0, at most {FLOAT32_MAX:.7g}"
    )
    momentum: float | None = fraction(of=("sgd",), example="0.9")
    nesterov: bool | None = ruled(of=("sgd",), example="true")
    clip_norm: float | None = positive()
    schedule: str = one_of("constant", "piecewise", *DECAYS)
    warmup_fraction: float = fraction()
    warmup_steps: int | None = whole(0)
    final_fraction: float | None = fraction(by="schedule", of=DECAYS)
    decay_fraction: float | None = fraction(
        by="schedule", of=("warmup_stable_decay",), example="0.2"
    )
    boundaries: list[float] | None = ruled(
        lambda epochs: epochs and epochs[0] > 0 and all(a < b for a, b in pairwise(epochs)),
        "use at least one epoch, in ascending order, like [5,8]",
        **PIECEWISE,
        example="[5,8]",
    )
    factors: list[float] | None = ruled(
        lambda factors: all(0 <= factor <= 1 for factor in factors),
        "use numbers from 0 to 1, like [0.1,0.01]",
        **PIECEWISE,
        example="[0.1,0.01]",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        useless = self.nesterov and self.momentum == 0
        check(not useless, "optim.nesterov", True, "needs optim.momentum above 0")
        unused = self.name == "sgd" and bool(self.options)
        check(not unused, "optim.options", self.options, "optim=sgd has none: leave them out")
        matches = len(self.boundaries or ()) == len(self.factors or ())
        rule = f"use as many as there are in optim.boundaries={self.boundaries}"
        check(matches, "optim.factors", self.factors, rule)


@dataclass(kw_only=True)
class InitConfig(Section):
    """The weights that a run begins with, where they are not drawn."""

    run: str | None = folder()
    step: int | None = whole(0)
    map: list[str] = ruled(
        lambda rules: all(re.fullmatch("[^:]+:[^:]+", rule) for rule in rules),
        "use OTHER:THIS, like [encoder:body]",
    )
    freeze: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step", "map"):
            value = getattr(self, name)
            rule = "name the other run, too: init.run=DIR"
            check(self.run is not None or value in (None, []), f"init.{name}", value, rule)


@dataclass(kw_only=True)
class AugmentConfig(Section):
    """Random changes of the images in training."""

    shift: int | None = whole(1)
    crop: int | None = whole(1)
    flip: bool
    cutout: int | None = whole(1)
    mixup: float | None = ruled(lambda alpha: 0 < alpha <= 10, "use a number in (0, 10], like 0.2")


@dataclass(kw_only=True)
class EmaConfig(Section):
    """The exponential moving average of the weights."""

    decay: float | None = ruled(lambda decay: 0 < decay < 1, "use a number in (0, 1), like 0.999")
    evaluate: bool


_DIRECTED = partial(
    ruled,
    lambda metric: re.fullmatch(r"\w+:(max|min)", metric) is not None,
    "use METRIC:max or METRIC:min, like accuracy:max",
)


@dataclass(kw_only=True)
class StopEarlyConfig(Section):
    """When to end a run that does not get better."""

    section = "train.stop_early"
    patience: int | None = whole(1)
    metric: str | None = _DIRECTED()
    min_delta: float = ruled(lambda x: math.isfinite(x) and x >= 0, "use a finite number from 0 up")


@dataclass(kw_only=True)
class TrainConfig(Section):
    """How long to train, in batches of which size, and how often to log and evaluate."""

    epochs: int = whole(1)
    global_batch_size: int = whole(1)
    accumulate: int = whole(1)
    steps_per_dispatch: Any = whole_or_auto()
    max_steps: int | None = whole(1)
    max_seconds: float | None = positive()
    max_seconds_exit: int = ruled(
        lambda code: code in (EXIT_COMPLETED, EXIT_RETRY),
        f"use {EXIT_COMPLETED}, completed, or {EXIT_RETRY}, to be run again",
    )
    stop_early: StopEarlyConfig
    limit_steps: int | None = whole(1)
    overfit_batches: int | None = whole(1)
    eval_every_epochs: int = whole(1)
    eval_batch_size: int = whole(1)
    log_every_steps: int = whole(1)
    log_gradient_norm: bool
    pictures_every_epochs: int | None = whole(1)
    profile_steps: list[int] | None = ruled(
        lambda steps: len(steps) == 2 and 1 <= steps[0] <= steps[1],
        "use the first and the last step, counted from 1, like [101,200]; or null",
    )
    on_nonfinite: str = one_of("stop", "skip")
    deterministic: bool
    compilation_cache_dir: str | None


@dataclass(kw_only=True)
class CheckpointConfig(Section):
    """When to save checkpoints and which to keep."""

    every_epochs: int | None = whole(1)
    every_steps: int | None = whole(1)
    keep_last: int = whole(1)
    keep_best: int = whole(0)
    best: str | None = _DIRECTED()
    max_failed_saves: int = whole(0)


@dataclass(kw_only=True)
class MeshConfig(Section):
    """How many devices share one copy of the state, and how many copies there are."""

    replica: int | None = whole(1)
    shard: int | None = whole(1)


@dataclass(kw_only=True)
class ParallelConfig(Section):
    """How the batch and the state are spread over devices."""

    method: str = one_of("shard_map", "pmap")
    devices: int | None = whole(1)
    virtual_shards: int | None = whole(1)
    shard_state: str = one_of("none", "optimizer", "all")
    mesh: MeshConfig
    reduce_dtype: str = one_of("float32", "bfloat16")

    def __post_init__(self) -> None:
        super().__post_init__()
        shares, pmap = self.shard_state != "none", self.method == "pmap"
        rule = "parallel.method=pmap keeps the whole state on each device: leave one of them out"
        check(not (shares and pmap), "parallel.shard_state", self.shard_state, rule)
        rule = "it needs parallel.shard_state=optimizer or all"
        for axis, value in vars(self.mesh).items():
            check(value is None or shares, f"parallel.mesh.{axis}", value, rule)


@dataclass(kw_only=True)
class SweepConfig(Section):
    """How -m trains the trials of a sweep; a single run does not use it."""

    parallel: Any = whole_or_auto()


@dataclass(kw_only=True)
class ClusterConfig(Section):
    """Which process of how many this is, and how long they wait for each other."""

    kind: str = one_of("auto", "single", "explicit", "slurm", "kubernetes")
    coordinator_address: str | None
    coordinator_port: int | None = whole(1, 2**16 - 1)
    token: str | None = field(repr=False)
    num_processes: int | None = whole(1)
    process_id: int | None = whole(0)
    gpus_per_process: int | None = whole(1)
    startup_timeout_seconds: int = whole(1)
    heartbeat_timeout_seconds: int = whole(3)
    hang_timeout_seconds: float = positive()


@dataclass(kw_only=True)
class Config:
    """The whole configuration of a training run."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    init: InitConfig
    augment: AugmentConfig
    ema: EmaConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    parallel: ParallelConfig
    sweep: SweepConfig
    cluster: ClusterConfig


def leave_out(given: dict[Any, Any], overrides: Sequence[str]) -> None:
    """Leave out what files have for another model, data set or optimizer than the one typed.

    So an experiment for the MLP works with model=module. An option that was typed stays, and is
    refused.

    Args:
        given: the options by section; changed in place.
        overrides: what was typed, NAME=VALUE.
    """
    typed = [override.lstrip("+").partition("=")[0] + "." for override in overrides]
    for section, kind in get_type_hints(Config).items():
        if f"{section}." not in typed:
            continue
        for option in fields(kind):
            of, by = option.metadata.get("of"), option.metadata.get("by")
            is_others = of and by == "name" and given[section].get("name") not in of
            if is_others and not any(n.startswith(f"{section}.{option.name}.") for n in typed):
                given[section][option.name] = {} if option.name == "options" else None


ConfigStore.instance().store(name="schema", node=Config)  # conf/config.yaml refers to it


def as_json(config: Config) -> dict[str, Any]:
    """Return all options as JSON, as a run records them: without secrets."""
    return {section: redacted(options) for section, options in asdict(config).items()}
