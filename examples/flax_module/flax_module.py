"""A module of flax.nnx that recognises digits: an adapter makes init and fwd of it.

python -m trainer --config-dir examples/flax_module +experiment=flax_module
"""

import jax.numpy as jnp
from flax import nnx

from trainer.tasks import adapters


class Digits(nnx.Module):
    """Called with one example, a dict of arrays."""

    def __init__(self, pixels, rngs):
        self.hidden = nnx.Linear(pixels, 256, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.logits = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, example):
        x = example["image"].reshape(-1).astype(jnp.float32) / 255
        return self.logits(self.dropout(nnx.relu(self.hidden(x))))


def build(example, options, rngs):
    """Return the module; `example` has shapes and dtypes."""
    return Digits(example["image"].size, rngs)


init, fwd = adapters.from_flax(build)
