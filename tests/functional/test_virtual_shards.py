"""Models of these functions train to the same bits on 1 and 4 devices with virtual shards."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from trainer.functional import activation, attention, conv, dropout, embed, linear, losses, norm

SHARDS, ROWS, STEPS = 4, 16, 4


def token_weights(key):
    keys = jax.random.split(key, 4)
    return {
        "embed": embed.init(keys[0], 32, 16),
        "attention": attention.init(keys[1], 16),
        "norms": [norm.init(16), norm.init(16), norm.init(16, bias=False)],
        "mlp": [linear.init(keys[2], 16, 64), linear.init(keys[3], 64, 16)],
    }


def token_loss(weights, tokens, key):
    """The loss of a causal transformer of one layer, which shares its table with its output."""
    first, second, last = weights["norms"]
    x = embed.fwd(tokens[:-1], weights["embed"])
    seen = attention.fwd(norm.layer_norm(x, first), weights["attention"], 2, causal=True)
    x = x + dropout.fwd(seen, key, 0.1)

    def mlp(x):
        up, down = weights["mlp"]
        return linear.fwd(linear.fwd(x, up, activation.gelu), down)

    x = x + jax.vmap(mlp)(norm.layer_norm(x, second))
    logits = jnp.dot(norm.rms_norm(x, last), weights["embed"].table.T)
    of_one = losses.sparse_categorical_crossentropy_from_logits
    return jnp.mean(jax.vmap(lambda x, token: of_one(x, token, 0.1))(logits, tokens[1:]))


def image_weights(key):
    keys = jax.random.split(key)
    head = linear.init(keys[1], 72, 32)
    return {"conv": conv.init(keys[0], 1, 8), "norm": norm.init(8), "head": head}


def image_loss(weights, tokens, key):
    """The loss of a small convolutional network on the tokens as pixels."""
    x = tokens[:-1].astype(jnp.float32).reshape(12, 12, 1)
    x = norm.group_norm(conv.fwd(x, weights["conv"], jax.nn.relu), weights["norm"], 4)
    logits = linear.fwd(conv.average_pool(conv.max_pool(x)).ravel(), weights["head"])
    return losses.sparse_categorical_crossentropy_from_logits(logits, tokens[-1])


def table_weights(key):
    keys = jax.random.split(key)
    return [linear.init(keys[0], 144, 32), linear.init(keys[1], 32, 2), norm.init(32)]


def table_loss(weights, tokens, key):
    """The loss of a small network that predicts a number and whether something holds."""
    x = tokens[:-1].astype(jnp.float32) * (1 / 32)
    hidden, head, scale = weights
    x = norm.layer_norm(linear.fwd(x, hidden, activation.gelu), scale)
    number, holds = linear.fwd(x, head)
    target = tokens[-1].astype(jnp.float32) * (1 / 32)
    return losses.mean_squared_error(number, target) + losses.binary_crossentropy_from_logits(
        holds, jnp.round(target)
    )


def train(weights, keys, loss, devices):
    """Train with virtual shards, as trainer/parallel/step.py does them."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    local = SHARDS // devices

    def gradients_of(weights, rows):
        def total(weights):
            return jnp.sum(jax.vmap(loss, (None, 0, 0))(weights, *rows))

        return jax.grad(total)(weights)

    def one_step(weights, rows):
        own = lax.pcast(weights, "data", to="varying") if devices > 1 else weights
        rows = jax.tree.map(lambda x: x.reshape(local, -1, *x.shape[1:]), rows)
        each = lax.map(lambda rows: ravel_pytree(gradients_of(own, rows))[0], rows)
        if devices > 1:
            empty = jnp.zeros((SHARDS, *each.shape[1:]))
            empty = lax.pcast(empty, "data", to="varying")
            first = lax.axis_index("data") * local
            each = lax.psum(lax.dynamic_update_slice_in_dim(empty, each, first, 0), "data")
        flat = lax.optimization_barrier(reduce(jnp.add, list(each)))
        updates = ravel_pytree(weights)[1](flat * jnp.float32(0.1 / ROWS))
        return lax.optimization_barrier(jax.tree.map(jnp.subtract, weights, updates)), None

    def steps(weights, inputs):
        return lax.scan(one_step, weights, inputs)[0]

    if devices > 1:
        whole, rows = PartitionSpec(), PartitionSpec(None, "data")
        steps = jax.shard_map(steps, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
    length = 13 if loss is token_loss else 145
    tokens = np.random.default_rng(1).integers(0, 32, (STEPS, ROWS, length), np.uint16)
    return jax.device_get(jax.jit(steps)(weights, (tokens, keys)))


@pytest.mark.parametrize(
    ("init", "loss"),
    [(token_weights, token_loss), (image_weights, image_loss), (table_weights, table_loss)],
)
def test_bits_do_not_depend_on_the_number_of_devices(init, loss):
    weights = jax.device_get(jax.jit(init)(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(2), (STEPS, ROWS))
    one, other = (jax.tree.leaves(train(weights, keys, loss, n)) for n in (1, 4))
    assert all(np.isfinite(x).all() for x in one)
    assert [x.tobytes() for x in one] == [x.tobytes() for x in other]
