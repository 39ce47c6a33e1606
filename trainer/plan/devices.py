"""The processes and devices that a job will have, and the memory of a device."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from trainer.commands.arguments import at_least
from trainer.config.schema import Config
from trainer.job.errors import ConfigError
from trainer.plan.scaling import MACHINES

SHARE, VARIABLES = 0.75, ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Layout(NamedTuple):
    """How many processes a job has, and how many devices each of them uses."""

    nodes: int
    processes: int
    gpus: int  # of each process; 0: it has one device, its CPU
    devices: int  # of each process; parallel.devices may leave GPUs out

    @property
    def all_devices(self) -> int:
        """Of all processes."""
        return self.processes * self.devices

    @property
    def devices_per_node(self) -> int:
        """Of all processes of a node."""
        return self.all_devices // self.nodes


def add_nodes(add: Callable[..., object]) -> None:
    """Add --nodes and --gpus-per-node, to a parser."""
    add("--nodes", type=at_least(1), default=1, metavar="N", help="number of nodes (default: 1)")
    help_ = "number of GPUs per node (default: 0, which trains on the CPUs)"
    add("--gpus-per-node", type=at_least(0), default=0, metavar="G", help=help_)


def add_tasks(add: Callable[..., object]) -> None:
    """Add --tasks-per-node, to a parser or a group of one."""
    help_ = "processes per node, which share its GPUs (default: 1, which uses them all)"
    add("--tasks-per-node", type=at_least(1), default=1, metavar="T", help=help_)


def layout_of(config: Config, args: argparse.Namespace) -> Layout:
    """Return the layout that these options ask for.

    Raises:
        ConfigError: the GPUs do not divide over the processes, the batch does not over the devices,
            or a process cannot have as many devices.
    """
    # jax takes a second
    from trainer.parallel.mesh import check_division, check_method, check_shape

    if args.gpus_per_node % args.tasks_per_node:
        gpus = f"--gpus-per-node={args.gpus_per_node}"
        message = f"--tasks-per-node={args.tasks_per_node} does not divide {gpus}"
        raise ConfigError(message, "use a divisor")
    processes, gpus = args.nodes * args.tasks_per_node, args.gpus_per_node // args.tasks_per_node
    parallel = config.parallel
    if parallel.devices and parallel.devices > gpus > 0:
        message = f"parallel.devices={parallel.devices}: each process will have {gpus} GPUs"
        raise ConfigError(message, f"use at most {gpus}, or leave it out to use all")
    shape = (parallel.mesh.replica, parallel.mesh.shard)
    check_method(parallel.method, processes)
    layout = Layout(args.nodes, processes, gpus, parallel.devices or max(gpus, 1))
    if any(shape):
        check_shape(layout.all_devices, *shape)
    size, accumulate = config.train.global_batch_size, config.train.accumulate
    check_division(layout.all_devices, size, parallel.virtual_shards, accumulate)
    return layout


def size(text: str) -> float:
    """Return the bytes that a text like 80GB or 79.6GiB names; an argparse type."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?i?B)", text)
    if match is None or match[2] not in _UNITS or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text}: use a size like 80GB or 79.6GiB")
    return float(match[1]) * _UNITS[match[2]]


def shown(value: float, unit: str = "B") -> str:
    """Return bytes, or another unit, with the prefix that suits them."""
    prefix = next((p for p in "TGMk" if value >= _UNITS[f"{p}B"]), "")
    return f"{value / _UNITS[f'{prefix}B']:.4g} {prefix}{unit}"


def add_device(add: Callable[..., object]) -> None:
    """Add the options that say which devices a job will have, to a parser or a group of one."""
    help_ = "kind of device, for the predicted seconds of a step (GPUs: H100) and its memory"
    add("--device", choices=tuple(MACHINES), metavar="|".join(MACHINES), help=help_)
    help_ = "memory of a device, like 80GB: what needs more is refused"
    add("--device-memory", type=size, metavar="SIZE", help=help_)


class Room:
    """The memory of a device, as far as it is known."""

    def __init__(self, args: argparse.Namespace, gpus: int, environ: Mapping[str, str]) -> None:
        """Read --device-memory, else --device; of a GPU, JAX takes a share for its arrays.

        Raises:
            ConfigError: the variable that says which share is not a number; there are no GPUs of
                that kind.
        """
        kind = args.device
        if kind and not gpus:
            hint = "give their number with --gpus-per-node"
            raise ConfigError(f"--device={kind}: the job has no GPUs", hint)
        self.bytes: float | None = args.device_memory or (MACHINES[kind].capacity if kind else None)
        self.text = shown(self.bytes) if self.bytes else ""
        if self.bytes is not None and gpus:
            given = next((name for name in VARIABLES if environ.get(name)), None)
            share = SHARE if given is None else _share(given, environ[given])
            self.bytes *= share
            self.text = f"{shown(self.bytes)}: JAX takes {share:.0%} of {self.text}"
            self.text += f" ({given or 'by default'})"


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 < share <= 1:
        raise ConfigError(f"{name}={text}", "use a share above 0, at most 1")
    return share
