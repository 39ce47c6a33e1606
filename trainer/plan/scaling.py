"""The scaling model: the seconds of a step on many devices, from constants of a machine.

docs/scaling.md explains it, and says what is measured. Seconds, bytes, bytes a second throughout.
"""

from __future__ import annotations

import math
from typing import NamedTuple

# How often a step passes over all weights: two products read them, one writes their gradients; the
# update reads weights, velocities and gradients, and writes the first two.
PRODUCTS, UPDATE = 3, 5


class Link(NamedTuple):
    """A way between two devices."""

    latency: float  # of a message, to the next device
    bandwidth: float  # of a device, in one direction


class Machine(NamedTuple):
    """The constants of a kind of machine."""

    flops: float  # operations a second in matrix products, on the tensor cores
    float32: float  # the same where all 32 bits are multiplied: model.precision=float32
    memory: float  # bandwidth of a device's memory
    launch: float  # seconds of a step that none of these explains
    jitter: float  # standard deviation of a step's seconds on one device
    collective: float  # seconds to start a collective
    local: Link  # between devices of a host
    network: Link  # between hosts, for each device
    devices_per_host: int
    input_rate: float  # images a second that one stream yields; a process for each device has one
    copy: float  # bandwidth from host to device, and back, for each device
    disk: float  # bandwidth of checkpoint storage
    capacity: float  # bytes of a device's memory
    source: str  # of these numbers


# Assumed, not measured: a host of eight H100 with NVLink, and a 400 Gbit/s port for each GPU. The
# launch time is what the goal of 50 epochs of MNIST in 3 s on one GPU leaves for a step.
H100 = Machine(
    flops=200e12,
    float32=50e12,
    memory=3.0e12,
    launch=60e-6,
    jitter=2e-6,
    collective=10e-6,
    local=Link(1.5e-6, 370e9),
    network=Link(5e-6, 45e9),
    devices_per_host=8,
    input_rate=2.0e6,
    copy=25e9,
    disk=1e9,
    capacity=80e9,
    source="its constants are assumed",
)
# Measured on one H200, 2026-11-27 (docs/benchmarks.md): both rates, from steps of 1,024 and of
# 4,096 examples; the launch time; the rate of the stream; the copy from a numpy array. The
# bandwidth of its memory is the manufacturer's; what concerns several devices is assumed as above.
H200 = H100._replace(
    flops=166e12,
    float32=40e12,
    memory=4.8e12,
    launch=40e-6,
    copy=5e9,
    capacity=141e9,
    source="its constants are measured on one H200",
)
MACHINES = {"H100": H100, "H200": H200}


class Step(NamedTuple):
    """Where the seconds of a step go."""

    compute: float
    reduce: float  # of the collectives, as far as computation does not hide them
    straggle: float  # for the slowest device
    input: float  # that it waits for data, beyond all the above

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self)


def ring(message: float, p: int, link: Link) -> float:
    """Return the seconds of an all-reduce round a ring: 2 (p - 1) turns of a p-th each."""
    return 2 * (p - 1) * (link.latency + message / p / link.bandwidth)


def tree(message: float, p: int, link: Link) -> float:
    """Return the seconds of an all-reduce up and down a (doubled, pipelined) binary tree."""
    return 2 * math.ceil(math.log2(p)) * link.latency + 2 * message / link.bandwidth if p > 1 else 0


def straggle(jitter: float, devices: int) -> float:
    """Return how much later than the mean the last of p devices is: normal noise, p large."""
    return jitter * math.sqrt(2 * math.log(devices))


def collective(kind: str, message: float, inside: int, hosts: int, machine: Machine) -> float:
    """Return the seconds of a collective: within hosts by ring, between them by the better way.

    Of an all-reduce, each device of a host gets the sum of its part; parts are added up between
    hosts, all at the same time over a network link for each device; then each host shares the parts
    out. A reduce-scatter is the first half of this, an all-gather the second.

    Args:
        kind: as HLO names it.
        message: bytes of the whole array.
        inside: devices of each host that take part.
        hosts: hosts that take part.
        machine: the constants.
    """
    if inside * hosts == 1:
        return 0.0
    part = message / inside
    between = min(ring(part, hosts, machine.network), tree(part, hosts, machine.network))
    share = 1.0 if kind == "all-reduce" else 0.5
    return machine.collective + share * (ring(message, inside, machine.local) + between)


def exposed(seconds: float, pieces: int, compute: float) -> float:
    """Return the seconds of collectives that computation does not hide.

    Of several pieces, one for each layer, each runs beside the computation of other layers; the
    last one, or the first, has nothing beside it. A single one waits for all of it.
    """
    return max(seconds / pieces, seconds - compute) if pieces > 1 else seconds


def compute(
    operations: float, weights: float, machine: Machine, rate: float, update: float = 1.0
) -> float:
    """Return the seconds that a device computes.

    Args:
        operations: of its matrix products.
        weights: bytes of all weights.
        machine: the constants.
        rate: operations a second.
        update: the share of the weights that it updates.
    """
    passes = PRODUCTS + UPDATE * update
    return machine.launch + operations / rate + passes * weights / machine.memory


def step(
    computing: float, reducing: float, devices: int, examples: int, example: int, machine: Machine
) -> Step:
    """Return a step of these parts, with what waits for other devices and for the data.

    Args:
        computing: seconds.
        reducing: seconds of the collectives that nothing hides.
        devices: number of devices.
        examples: of each device.
        example: bytes of one.
        machine: the constants.
    """
    parts = (computing, reducing, straggle(machine.jitter, devices))
    fed = max(examples / machine.input_rate, examples * example / machine.copy)
    return Step(*parts, max(0.0, fed - sum(parts)))
