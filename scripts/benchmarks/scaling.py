"""A model of how long a data-parallel training step takes on p devices. Pure arithmetic.

A step is compute, then one all-reduce of the gradients, then the same update everywhere; nothing
overlaps within a step. Data for the next steps is read and copied meanwhile, so the input only
shows where it takes longer than the step. Seconds, bytes, bytes a second throughout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

FLOAT = 4  # bytes
METRICS = 5  # floats beside the gradients: their bound, loss, correct, examples, stop votes
# How often a step passes over all weights: two products read them, one writes their gradients, and
# the update reads weights, velocities and gradients, and writes the first two.
PASSES = 8


class Net(NamedTuple):
    """A multilayer perceptron."""

    sizes: tuple[int, ...]

    @property
    def weights(self) -> int:
        return self.products + sum(self.sizes[1:])

    @property
    def products(self) -> int:
        """Multiplications of an image's way forward."""
        return sum(a * b for a, b in itertools.pairwise(self.sizes))

    @property
    def message(self) -> int:
        """Bytes that a step adds up over the devices."""
        return (self.weights + METRICS) * FLOAT

    @property
    def state(self) -> int:
        """Bytes of a checkpoint: weights and velocities."""
        return 2 * self.weights * FLOAT

    def flops(self, batch: int) -> float:
        """Return the floating-point operations of one step's matrix products.

        Three products a layer (forward, gradient of the kernel, gradient of the input), but the
        images need no gradient.
        """
        return 2.0 * batch * (3 * self.products - self.sizes[0] * self.sizes[1])


MLP = Net((784, 512, 512, 10))


class Link(NamedTuple):
    """A way between two devices."""

    latency: float  # of a message, to the next device
    bandwidth: float  # of a device, in one direction


class Machine(NamedTuple):
    """The constants of a kind of machine."""

    flops: float  # operations a second in the step's matrix products
    memory: float  # bandwidth of a device's memory
    launch: float  # seconds of a step that neither of the two explains
    jitter: float  # standard deviation of a step's seconds on one device
    collective: float  # seconds to start an all-reduce
    local: Link  # between devices of a host
    network: Link  # between hosts, for each device
    devices_per_host: int
    input_rate: float  # images a second that one stream yields; a process for each device has one
    copy: float  # bandwidth from host to device, and back, for each device
    disk: float  # bandwidth of checkpoint storage


class Step(NamedTuple):
    """Where the seconds of a step go."""

    compute: float
    reduce: float
    straggle: float  # for the slowest device
    input: float  # that it waits for data, beyond all the above

    @property
    def seconds(self) -> float:
        return sum(self)


def ring(message: float, p: int, link: Link) -> float:
    """Return the seconds of an all-reduce round a ring: 2 (p - 1) turns of a p-th each."""
    return 2 * (p - 1) * (link.latency + message / p / link.bandwidth)


def tree(message: float, p: int, link: Link) -> float:
    """Return the seconds of an all-reduce up and down a (doubled, pipelined) binary tree."""
    return 2 * math.ceil(math.log2(p)) * link.latency + 2 * message / link.bandwidth if p > 1 else 0


def all_reduce(message: float, devices: int, machine: Machine) -> float:
    """Return the seconds of an all-reduce: within hosts by ring, between them by the better way.

    Within a host each device gets the sum of its part; parts are added up between hosts, all at the
    same time over a network link for each device; then each host shares the parts out.
    """
    if devices == 1:
        return 0.0
    inside = min(devices, machine.devices_per_host)
    hosts = -(-devices // inside)
    part = message / inside
    between = min(ring(part, hosts, machine.network), tree(part, hosts, machine.network))
    return machine.collective + ring(message, inside, machine.local) + between


def straggle(jitter: float, devices: int) -> float:
    """Return how much later than the mean the last of p devices is: normal noise, p large."""
    return jitter * math.sqrt(2 * math.log(devices))


def step(net: Net, local_batch: int, devices: int, machine: Machine) -> Step:
    """Predict a step on some devices, each with `local_batch` examples."""
    passes = PASSES * net.weights * FLOAT / machine.memory
    parts = (
        machine.launch + net.flops(local_batch) / machine.flops + passes,
        all_reduce(net.message, devices, machine),
        straggle(machine.jitter, devices),
    )
    images = local_batch / machine.input_rate
    copied = local_batch * net.sizes[0] / machine.copy
    return Step(*parts, max(0.0, max(images, copied) - sum(parts)))


def efficiency(net: Net, local_batch: int, devices: int, machine: Machine) -> float:
    """Return the share of a step's time that is compute.

    That is the speed of p devices with a p times larger batch, over p times the speed of one that
    never waits for data.
    """
    whole = step(net, local_batch, devices, machine)
    return whole.compute / whole.seconds


def best_count(net: Net, global_batch: int, counts: Sequence[int], machine: Machine) -> int:
    """Return the count of devices that is fastest for a global batch that stays as it is."""
    fitting = [p for p in counts if p <= global_batch]
    return min(fitting, key=lambda p: step(net, global_batch // p, p, machine).seconds)


def least_local_batch(net: Net, devices: int, machine: Machine, wanted: float) -> int | None:
    """Return the least power of two, up to 65,536 examples a device, that is efficient enough."""
    sizes = (2**n for n in range(17))
    return next((b for b in sizes if efficiency(net, b, devices, machine) >= wanted), None)


def checkpoint(net: Net, machine: Machine) -> tuple[float, float]:
    """Return the seconds that a save holds training up, and those of writing in the background.

    The state is read and written once more, on the device.
    """
    return 2 * net.state / machine.memory, net.state / machine.disk
