"""Every option with its type, and the rules that need nothing but the configuration itself.

The dataclasses have no defaults: every value stands once, in conf/. Nothing here uses a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.config_store import ConfigStore

from trainer.job.errors import ConfigError

FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def _check(ok: bool, option: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{option}={value}: {rule}")


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, option, value, f"use one of {', '.join(choices)}")


def _check_at_least(option: str, value: int | None, least: int) -> None:
    _check(value is None or value >= least, option, value, f"use a whole number from {least} up")
    _check(value is None or value < 2**31, option, value, "use a number below 2**31")


def _check_positive(option: str, value: float | None) -> None:
    ok = value is None or (math.isfinite(value) and value > 0)
    _check(ok, option, value, "use a finite number above 0")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # the command line held bytes that are not UTF-8
        return False
    return True


def _check_address(option: str, value: str) -> None:
    try:
        scheme, host = urlsplit(value)[:2]
    except ValueError:
        scheme, host = "", value
    if "@" in host:  # the run directory and logs would show it
        raise ConfigError(f"{option} contains credentials", "use a URL without user:password@")
    ok = scheme in ("http", "https") and host != ""
    _check(ok, option, value, "use a URL that begins with https:// or http://")


@dataclass
class RunConfig:
    """Which run this is, and where its directory is."""

    name: str | None
    dir: str | None
    root: str
    seed: int
    quiet: bool
    legacy_prng: bool

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**32, "run.seed", self.seed, "use a whole number in [0, 2**32)")
        if self.name is not None:
            ok = self.name not in ("", ".", "..") and not any(c in self.name for c in "/\0")
            _check(ok, "run.name", self.name, "use a plain folder name, without slashes")
        _check(self.dir != "", "run.dir", self.dir, "name a folder, or use null for run.root")
        _check(self.root != "", "run.root", self.root, "name a folder")
        for option, path in (("name", self.name), ("dir", self.dir), ("root", self.root)):
            _check(path is None or _is_utf8(path), f"run.{option}", ascii(path), "use UTF-8")


@dataclass
class DataConfig:
    """Which data set, where it comes from, and in which order it is read."""

    name: str
    root: str | None
    cache_dir: str
    mirrors: list[str]
    sha256: dict[str, str]
    download: bool
    offline_fallback: bool
    timeout_seconds: float
    num_classes: int
    shuffle: bool
    pixel_mean: float | None
    pixel_std: float | None

    def __post_init__(self) -> None:
        _check_choice("data.name", self.name, ("mnist", "mnist_5k", "idx"))
        for number, mirror in enumerate(self.mirrors):
            _check_address(f"data.mirrors[{number}]", mirror)
        _check_positive("data.timeout_seconds", self.timeout_seconds)
        _check_at_least("data.num_classes", self.num_classes, 2)
        _check(self.num_classes <= 256, "data.num_classes", self.num_classes, "use at most 256")
        mean = self.pixel_mean
        finite = mean is None or math.isfinite(mean)
        _check(finite, "data.pixel_mean", mean, "use a finite number, or null to measure it")
        _check_positive("data.pixel_std", self.pixel_std)
        needs_root = self.name == "idx" and self.root is None
        _check(not needs_root, "data.root", None, "data=idx needs it: data.root=DIR of the 4 files")


@dataclass
class ModelConfig:
    """The network and its loss."""

    name: str
    hidden_sizes: list[int]
    kernel_initializer: str
    pixels: str
    loss: str
    precision: str

    def __post_init__(self) -> None:
        _check_choice("model.name", self.name, ("mlp",))
        ok = bool(self.hidden_sizes) and all(0 < size < 2**31 for size in self.hidden_sizes)
        rule = "use at least one size, each above 0, like model.hidden_sizes=[512,512]"
        _check(ok, "model.hidden_sizes", self.hidden_sizes, rule)
        initializers = ("he_normal", "glorot_uniform")
        _check_choice("model.kernel_initializer", self.kernel_initializer, initializers)
        _check_choice("model.pixels", self.pixels, ("standardized", "raw"))
        losses = ("softmax_crossentropy", "clipped_crossentropy")
        _check_choice("model.loss", self.loss, losses)
        _check_choice("model.precision", self.precision, ("float32", "tf32", "bfloat16"))


@dataclass
class OptimConfig:
    """The optimizer and its schedule."""

    name: str
    lr: float
    momentum: float
    nesterov: bool
    schedule: str
    warmup_fraction: float

    def __post_init__(self) -> None:
        _check_choice("optim.name", self.name, ("sgd",))
        _check_positive("optim.lr", self.lr)
        _check(self.lr <= FLOAT32_MAX, "optim.lr", self.lr, f"use at most {FLOAT32_MAX:.7g}")
        _check(0 <= self.momentum < 1, "optim.momentum", self.momentum, "use a number in [0, 1)")
        useless = self.nesterov and self.momentum == 0
        _check(not useless, "optim.nesterov", True, "needs optim.momentum above 0")
        schedules = ("constant", "warmup_linear", "warmup_cosine")
        _check_choice("optim.schedule", self.schedule, schedules)
        ok = 0 <= self.warmup_fraction < 1
        _check(ok, "optim.warmup_fraction", self.warmup_fraction, "use a number in [0, 1)")


@dataclass
class TrainConfig:
    """How long to train, in batches of which size, and how often to log and evaluate."""

    epochs: int
    global_batch_size: int
    steps_per_dispatch: Any  # int or "auto"; OmegaConf 2.3 cannot merge a union
    eval_every_epochs: int
    eval_batch_size: int
    log_every_steps: int
    pictures_every_epochs: int | None
    profile_steps: list[int] | None
    on_nonfinite: str
    deterministic: bool
    compilation_cache_dir: str | None

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "global_batch_size",
            "eval_every_epochs",
            "eval_batch_size",
            "log_every_steps",
        ):
            _check_at_least(f"train.{name}", getattr(self, name), 1)
        k = self.steps_per_dispatch
        ok = k == "auto" or (type(k) is int and 1 <= k < 2**31)
        _check(ok, "train.steps_per_dispatch", k, "use a whole number from 1 up, or auto")
        _check_at_least("train.pictures_every_epochs", self.pictures_every_epochs, 1)
        if self.profile_steps is not None:
            first, last = (*self.profile_steps, 0, 0)[:2]
            ok = len(self.profile_steps) == 2 and 1 <= first <= last
            rule = "use the first and the last step, counted from 1, like [101,200]; or null"
            _check(ok, "train.profile_steps", self.profile_steps, rule)
        _check_choice("train.on_nonfinite", self.on_nonfinite, ("stop", "skip"))


@dataclass
class CheckpointConfig:
    """When to save checkpoints and which to keep."""

    every_epochs: int | None
    every_steps: int | None
    keep_last: int
    keep_best: int
    max_failed_saves: int

    def __post_init__(self) -> None:
        _check_at_least("checkpoint.every_epochs", self.every_epochs, 1)
        _check_at_least("checkpoint.every_steps", self.every_steps, 1)
        _check_at_least("checkpoint.keep_last", self.keep_last, 1)
        _check_at_least("checkpoint.keep_best", self.keep_best, 0)
        _check_at_least("checkpoint.max_failed_saves", self.max_failed_saves, 0)


@dataclass
class ParallelConfig:
    """How the batch is spread over devices."""

    method: str
    devices: int | None
    virtual_shards: int | None

    def __post_init__(self) -> None:
        _check_at_least("parallel.virtual_shards", self.virtual_shards, 1)
        _check_choice("parallel.method", self.method, ("shard_map", "pmap"))
        _check_at_least("parallel.devices", self.devices, 1)


@dataclass
class ClusterConfig:
    """Which process of how many this is, and how long they wait for each other."""

    kind: str
    coordinator_address: str | None
    coordinator_port: int | None
    num_processes: int | None
    process_id: int | None
    gpus_per_process: int | None
    startup_timeout_seconds: int
    heartbeat_timeout_seconds: int
    hang_timeout_seconds: float

    def __post_init__(self) -> None:
        _check_choice(
            "cluster.kind", self.kind, ("auto", "single", "explicit", "slurm", "kubernetes")
        )
        _check_at_least("cluster.coordinator_port", self.coordinator_port, 1)
        ok = self.coordinator_port is None or self.coordinator_port < 2**16
        _check(ok, "cluster.coordinator_port", self.coordinator_port, "use a port below 65536")
        _check_at_least("cluster.gpus_per_process", self.gpus_per_process, 1)
        _check_at_least("cluster.num_processes", self.num_processes, 1)
        _check_at_least("cluster.process_id", self.process_id, 0)
        _check_at_least("cluster.startup_timeout_seconds", self.startup_timeout_seconds, 1)
        _check_at_least("cluster.heartbeat_timeout_seconds", self.heartbeat_timeout_seconds, 3)
        _check_positive("cluster.hang_timeout_seconds", self.hang_timeout_seconds)


@dataclass
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
