"""Arithmetic of a data-parallel step: operations, bytes, and the time of an all-reduce.

docs/scaling_model.py predicts whole steps with it. Seconds, bytes, bytes a second throughout.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

FLOAT = 4  # bytes
METRICS = 5  # floats beside the gradients: their bound, loss, correct, examples, stop votes


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


def ring(message: float, p: int, link: Link) -> float:
    """Return the seconds of an all-reduce round a ring: 2 (p - 1) turns of a p-th each."""
    return 2 * (p - 1) * (link.latency + message / p / link.bandwidth)


def tree(message: float, p: int, link: Link) -> float:
    """Return the seconds of an all-reduce up and down a (doubled, pipelined) binary tree."""
    return 2 * math.ceil(math.log2(p)) * link.latency + 2 * message / link.bandwidth if p > 1 else 0


def straggle(jitter: float, devices: int) -> float:
    """Return how much later than the mean the last of p devices is: normal noise, p large."""
    return jitter * math.sqrt(2 * math.log(devices))
