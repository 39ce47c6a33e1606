"""Every option of training at once: whatever is combined, the laws hold."""

OPTIONS = (  # one more option of training: add it to this list
    *("train.accumulate=4", "train.log_gradient_norm=true", "train.on_nonfinite=skip"),
    *("train.stop_early.patience=2", "train.stop_early.min_delta=0.05"),
    *("optim=adamw", "optim.lr=0.02", "optim.clip_norm=1", "optim.schedule=warmup_cosine"),
    *("optim.warmup_steps=5", "optim.final_fraction=0.1"),
    *("ema.decay=0.9", "parallel.virtual_shards=4"),
)
MODEL = """
import jax
import jax.numpy as jnp
from trainer.functional import dropout, linear

def init(key, example, options):
    first, second = jax.random.split(key)
    return {"hidden": linear.init(first, 784, 16), "out": linear.init(second, 16, 10)}

def fwd(example, weights, options, key):
    x = jnp.asarray(example["image"]).astype(jnp.float32).reshape(-1) * (1 / 255)
    x = linear.fwd(x, weights["hidden"], jax.nn.relu)
    return linear.fwd(dropout.fwd(x, key, 0.2), weights["out"])
"""
MODULE = ("data=mnist_5k", "model=module", "model.module=model.py")
