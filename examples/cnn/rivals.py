"""The same network in flax and in PyTorch, for `scripts/bench --sections examples`.

Both give the mean loss of a batch in training: `image`, uint8 (N, height, width), and `label`.
"""


def flax(options):
    """Return a module of flax."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    most, channels = options["shift"], options["channels"]

    def shifted(image, key):
        start = jax.random.randint(key, (2,), 0, 2 * most + 1)
        return jax.lax.dynamic_slice(jnp.pad(image, most), start, image.shape)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, batch):
            images = batch["image"]
            keys = jax.random.split(self.make_rng("dropout"), len(images))
            x = jax.vmap(shifted)(images, keys).astype(jnp.float32)[..., None] / 255
            for features in (channels, 2 * channels):
                x = nn.max_pool(nn.relu(nn.Conv(features, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.LayerNorm(epsilon=1e-5)(x.reshape(len(x), -1))
            x = nn.relu(nn.Dense(options["features"])(x))
            x = nn.Dropout(options["dropout"], deterministic=False)(x)
            logits = nn.Dense(options["classes"])(x)
            labels = batch["label"].astype(jnp.int32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return Net()


def pytorch(options, examples):
    """Return a module of PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    height, width = examples["image"].shape[1:]
    most, channels = options["shift"], options["channels"]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            flat = (height // 4) * (width // 4) * 2 * channels
            self.layers = nn.Sequential(
                nn.Conv2d(1, channels, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(channels, 2 * channels, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.LayerNorm(flat),
                nn.Linear(flat, options["features"]),
                nn.ReLU(),
                nn.Dropout(options["dropout"]),
                nn.Linear(options["features"], options["classes"]),
            )

        def forward(self, batch):
            images = batch["image"]
            x = functional.pad(images, (most,) * 4)
            start = torch.randint(2 * most + 1, (2, len(images), 1), device=x.device)
            rows = start[0] + torch.arange(height, device=x.device)
            columns = start[1] + torch.arange(width, device=x.device)
            each = torch.arange(len(images), device=x.device)[:, None, None]
            x = x[each, rows[:, :, None], columns[:, None]]
            logits = self.layers(x.float()[:, None] / 255)
            return functional.cross_entropy(logits, batch["label"].long())

    return Net()
