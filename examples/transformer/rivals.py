"""The same transformer in flax and in PyTorch, for `scripts/bench --sections examples`.

Both give the mean loss of a batch in training: `bytes` and `next`, uint8 (N, length).
"""


def flax(options):
    """Return a module of flax."""
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    features = options["features"]

    def dropped(x):
        return nn.Dropout(options["dropout"], deterministic=False)(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, batch):
            tokens = batch["tokens"][:, :-1].astype(jnp.int32)
            positions = nn.Embed(tokens.shape[1], features)(jnp.arange(tokens.shape[1]))
            x, mask = nn.Embed(256, features)(tokens) + positions, nn.make_causal_mask(tokens)
            for _ in range(options["layers"]):
                y = nn.LayerNorm(epsilon=1e-5)(x)
                x = x + dropped(nn.MultiHeadDotProductAttention(options["heads"])(y, mask=mask))
                y = nn.gelu(nn.Dense(4 * features)(nn.LayerNorm(epsilon=1e-5)(x)))
                x = x + dropped(nn.Dense(features)(y))
            logits = nn.Dense(256)(nn.LayerNorm(epsilon=1e-5)(x))
            wanted = batch["tokens"][:, 1:].astype(jnp.int32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()

    return Net()


def pytorch(options, examples):
    """Return a module of PyTorch."""
    import torch
    from torch import nn
    from torch.nn import functional

    length = examples["tokens"].shape[1] - 1
    features, heads = options["features"], options["heads"]

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.norm = nn.LayerNorm(features), nn.LayerNorm(features)
            self.qkv, self.output = nn.Linear(features, 3 * features), nn.Linear(features, features)
            self.wide = nn.Linear(features, 4 * features)
            self.narrow = nn.Linear(4 * features, features)
            self.dropout = nn.Dropout(options["dropout"])

        def forward(self, x):
            split = self.qkv(self.attention_norm(x)).unflatten(2, (3, heads, -1))
            query, key, value = split.permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.dropout(self.output(y.transpose(1, 2).flatten(2)))
            y = functional.gelu(self.wide(self.norm(x)), approximate="tanh")
            return x + self.dropout(self.narrow(y))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bytes = nn.Embedding(256, features)
            self.positions = nn.Parameter(0.02 * torch.randn(length, features))
            layers = [Layer() for _ in range(options["layers"])]
            self.layers = nn.Sequential(*layers, nn.LayerNorm(features), nn.Linear(features, 256))

        def forward(self, batch):
            logits = self.layers(self.bytes(batch["tokens"][:, :-1].int()) + self.positions)
            return functional.cross_entropy(
                logits.flatten(0, 1), batch["tokens"][:, 1:].long().flatten()
            )

    return Net()
