"""The same network in flax and in PyTorch, for `scripts/bench --sections examples`.

Both give the mean loss of a batch in training: `features`, float32 (N, 10), and `target`, (N,).
"""


def flax(options):
    """Return a module of flax."""
    import jax.numpy as jnp
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, batch):
            x = nn.relu(nn.Dense(options["width"])(batch["features"]))
            x = nn.Dropout(options["dropout"], deterministic=False)(x)
            prediction = options["mean"] + options["scale"] * nn.Dense(1)(x)[:, 0]
            return jnp.mean((prediction - batch["target"]) ** 2)

    return Net()


def pytorch(options, examples):
    """Return a module of PyTorch."""
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(examples["features"].shape[1], options["width"])
            self.dropout = nn.Dropout(options["dropout"])
            self.output = nn.Linear(options["width"], 1)

        def forward(self, batch):
            x = self.dropout(functional.relu(self.hidden(batch["features"])))
            prediction = options["mean"] + options["scale"] * self.output(x)[:, 0]
            return functional.mse_loss(prediction, batch["target"])

    return Net()
