"""The same network in flax.linen and in PyTorch, for `scripts/bench --sections examples`.

Both give the mean loss of a batch in training: `image`, uint8 (N, height, width), and `label`.
"""


def flax(options):
    """Return a module of flax.linen."""
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, batch):
            images = batch["image"]
            x = images.reshape(len(images), -1).astype(jnp.float32) / 255
            x = nn.Dropout(0.3, deterministic=False)(nn.relu(nn.Dense(256)(x)))
            labels = batch["label"].astype(jnp.int32)
            logits = nn.Dense(10)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Net()


def pytorch(options, examples):
    """Return a module of PyTorch."""
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            pixels = examples["image"][0].numel()
            self.hidden, self.logits = nn.Linear(pixels, 256), nn.Linear(256, 10)
            self.dropout = nn.Dropout(0.3)

        def forward(self, batch):
            x = functional.relu(self.hidden(batch["image"].flatten(1).float() / 255))
            return functional.cross_entropy(self.logits(self.dropout(x)), batch["label"].long())

    return Net()
