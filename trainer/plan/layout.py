"""The processes and devices that a job will have, and whether its options fit them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from trainer.commands.arguments import at_least
from trainer.config.schema import Config
from trainer.job.errors import ConfigError


class Layout(NamedTuple):
    """How many processes a job has, and how many devices are of each."""

    nodes: int
    processes: int
    gpus: int  # of each process; 0: it has one device, its CPU
    devices: int  # that each process uses

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
    check_division(layout.all_devices, size, parallel.virtual_shards, accumulate=accumulate)
    return layout
