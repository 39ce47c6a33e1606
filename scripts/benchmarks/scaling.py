"""Operations and bytes of a step of a multilayer perceptron.

docs/scaling_model.py predicts whole steps with it.
"""

import itertools
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
