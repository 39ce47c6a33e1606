"""Every option with its type, and the rules that need nothing but the configuration itself.

The dataclasses have no defaults: every value stands once, in conf/. Nothing here uses a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.config_store import ConfigStore

from trainer.job.errors import ConfigError

FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def _check(ok: bool, option: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{option}={value}: {rule}")


def _ruled(test: Callable[[Any], bool], rule: str) -> Any:
    """Return a field whose values have to pass a test; None passes, where the type allows it."""
    return field(metadata={"test": test, "rule": rule})


def at_least(least: int) -> Any:
    """Return a field for whole numbers from `least` up."""
    rule = f"use a whole number from {least} up, below 2**31"
    return _ruled(lambda value: least <= value < 2**31, rule)


def one_of(*choices: str) -> Any:
    """Return a field for one of some words."""
    return _ruled(lambda value: value in choices, f"use one of {', '.join(choices)}")


positive = partial(_ruled, lambda x: math.isfinite(x) and x > 0, "use a finite number above 0")
finite = partial(_ruled, math.isfinite, "use a finite number, or null to measure it")
fraction = partial(_ruled, lambda x: 0 <= x < 1, "use a number in [0, 1)")
folder = partial(_ruled, lambda name: name != "" and _is_utf8(name), "name a folder, in UTF-8")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # the command line held bytes that are not UTF-8
        return False
    return True


class Section:
    """A section of the configuration: tests each field that has a rule."""

    def __post_init__(self) -> None:
        """Test the fields.

        Raises:
            ConfigError: a value does not pass.
        """
        section = type(self).__name__.removesuffix("Config").lower()
        for option in fields(self):  # type: ignore[arg-type]
            value, rule = getattr(self, option.name), option.metadata
            if rule and value is not None:
                _check(rule["test"](value), f"{section}.{option.name}", value, rule["rule"])


@dataclass(kw_only=True)
class RunConfig(Section):
    """Which run this is, and where its directory is."""

    name: str | None = folder()
    dir: str | None = folder()
    root: str = folder()
    seed: int
    quiet: bool
    legacy_prng: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(0 <= self.seed < 2**32, "run.seed", self.seed, "use a whole number in [0, 2**32)")
        name = self.name or ""
        ok = name not in (".", "..") and not any(c in name for c in "/\0")
        _check(ok, "run.name", self.name, "use a plain folder name, without slashes")


@dataclass(kw_only=True)
class DataConfig(Section):
    """Which data set, where it comes from, and in which order it is read."""

    name: str = one_of("mnist", "mnist_5k", "idx")
    root: str | None
    cache_dir: str
    mirrors: list[str]
    sha256: dict[str, str]
    download: bool
    offline_fallback: bool
    timeout_seconds: float = positive()
    num_classes: int = at_least(2)
    shuffle: bool
    pixel_mean: float | None = finite()
    pixel_std: float | None = positive()

    def __post_init__(self) -> None:
        super().__post_init__()
        for number, mirror in enumerate(self.mirrors):
            _check_url(f"data.mirrors[{number}]", mirror)
        _check(self.num_classes <= 256, "data.num_classes", self.num_classes, "use at most 256")
        needs_root = self.name == "idx" and self.root is None
        _check(not needs_root, "data.root", None, "data=idx needs it: data.root=DIR of the 4 files")


def _check_url(option: str, value: str) -> None:
    try:
        scheme, host = urlsplit(value)[:2]
    except ValueError:
        scheme, host = "", value
    if "@" in host:  # the run directory and logs would show it
        raise ConfigError(f"{option} contains credentials", "use a URL without user:password@")
    ok = scheme in ("http", "https") and host != ""
    _check(ok, option, value, "use a URL that begins with https:// or http://")


@dataclass(kw_only=True)
class ModelConfig(Section):
    """The network and its loss."""

    name: str = one_of("mlp")
    hidden_sizes: list[int]
    kernel_initializer: str = one_of("he_normal", "glorot_uniform")
    pixels: str = one_of("standardized", "raw")
    loss: str = one_of("softmax_crossentropy", "clipped_crossentropy")
    precision: str = one_of("float32", "tf32", "bfloat16")

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = bool(self.hidden_sizes) and all(0 < size < 2**31 for size in self.hidden_sizes)
        rule = "use at least one size, each above 0, like model.hidden_sizes=[512,512]"
        _check(ok, "model.hidden_sizes", self.hidden_sizes, rule)


@dataclass(kw_only=True)
class OptimConfig(Section):
    """The optimizer and its schedule."""

    name: str = one_of("sgd")
    lr: float = positive()
    momentum: float = fraction()
    nesterov: bool
    schedule: str = one_of("constant", "warmup_linear", "warmup_cosine")
    warmup_fraction: float = fraction()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.lr <= FLOAT32_MAX, "optim.lr", self.lr, f"use at most {FLOAT32_MAX:.7g}")
        useless = self.nesterov and self.momentum == 0
        _check(not useless, "optim.nesterov", True, "needs optim.momentum above 0")


@dataclass(kw_only=True)
class TrainConfig(Section):
    """How long to train, in batches of which size, and how often to log and evaluate."""

    epochs: int = at_least(1)
    global_batch_size: int = at_least(1)
    steps_per_dispatch: Any  # int or "auto"; OmegaConf 2.3 cannot merge a union
    eval_every_epochs: int = at_least(1)
    eval_batch_size: int = at_least(1)
    log_every_steps: int = at_least(1)
    pictures_every_epochs: int | None = at_least(1)
    profile_steps: list[int] | None
    on_nonfinite: str = one_of("stop", "skip")
    deterministic: bool
    compilation_cache_dir: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        k = self.steps_per_dispatch
        ok = k == "auto" or (type(k) is int and 1 <= k < 2**31)
        _check(ok, "train.steps_per_dispatch", k, "use a whole number from 1 up, or auto")
        if self.profile_steps is not None:
            first, last = (*self.profile_steps, 0, 0)[:2]
            ok = len(self.profile_steps) == 2 and 1 <= first <= last
            rule = "use the first and the last step, counted from 1, like [101,200]; or null"
            _check(ok, "train.profile_steps", self.profile_steps, rule)


@dataclass(kw_only=True)
class CheckpointConfig(Section):
    """When to save checkpoints and which to keep."""

    every_epochs: int | None = at_least(1)
    every_steps: int | None = at_least(1)
    keep_last: int = at_least(1)
    keep_best: int = at_least(0)
    max_failed_saves: int = at_least(0)


@dataclass(kw_only=True)
class ParallelConfig(Section):
    """How the batch is spread over devices."""

    method: str = one_of("shard_map", "pmap")
    devices: int | None = at_least(1)
    virtual_shards: int | None = at_least(1)


@dataclass(kw_only=True)
class ClusterConfig(Section):
    """Which process of how many this is, and how long they wait for each other."""

    kind: str = one_of("auto", "single", "explicit", "slurm", "kubernetes")
    coordinator_address: str | None
    coordinator_port: int | None = at_least(1)
    num_processes: int | None = at_least(1)
    process_id: int | None = at_least(0)
    gpus_per_process: int | None = at_least(1)
    startup_timeout_seconds: int = at_least(1)
    heartbeat_timeout_seconds: int = at_least(3)
    hang_timeout_seconds: float = positive()

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.coordinator_port is None or self.coordinator_port < 2**16
        _check(ok, "cluster.coordinator_port", self.coordinator_port, "use a port below 65536")


@dataclass(kw_only=True)
class Config:
    """The whole configuration of a training run."""

    run: RunConfig
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig
    train: TrainConfig
    checkpoint: CheckpointConfig
    parallel: ParallelConfig
    cluster: ClusterConfig


def config_dir() -> Path:
    """Return the folder conf/: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register() -> None:
    """Register the types with Hydra; conf/config.yaml refers to them as `schema`."""
    ConfigStore.instance().store(name="schema", node=Config)
