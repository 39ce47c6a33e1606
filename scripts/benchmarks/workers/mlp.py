"""The network of `+experiment=mlp` in flax and in PyTorch, as examples/*/rivals.py have theirs.

Both give the mean loss of a batch in training: `image`, uint8 (N, ...), and `label`, uint8 (N,).
The options are `sizes` of the layers, from pixels to classes, `mean` and `std` of the pixels.
"""

import itertools
from typing import Any


def flax(options: dict[str, Any]) -> Any:
    """Return a module of flax."""
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, batch: dict[str, Any]) -> Any:
            images = batch["image"].reshape(len(batch["image"]), -1)
            x = (images.astype(jnp.float32) - options["mean"]) / options["std"]
            for size in options["sizes"][1:-1]:
                x = nn.relu(nn.Dense(size)(x))
            logits = nn.Dense(options["sizes"][-1])(x)
            labels = batch["label"].astype(jnp.int32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Net()


def pytorch(options: dict[str, Any], examples: dict[str, Any]) -> Any:
    """Return a module of PyTorch."""
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = list[Any]()
            for inputs, outputs in itertools.pairwise(options["sizes"]):
                layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            self.layers = nn.Sequential(nn.Flatten(), *layers[:-1])

        def forward(self, batch: dict[str, Any]) -> Any:
            x = (batch["image"].float() - options["mean"]) / options["std"]
            return functional.cross_entropy(self.layers(x), batch["label"].long())

    return Net()
