"""A classifier as a user writes it, and the examples it takes."""

import jax
import numpy as np

EXAMPLE = {
    "image": jax.ShapeDtypeStruct((3, 4), np.uint8),
    "label": jax.ShapeDtypeStruct((), np.uint8),
}
IMPORTS = "import jax\nimport jax.numpy as jnp\nimport numpy as np\n"
INIT = """
def init(key, example, options):
    size = example["image"].size
    return {"w": 0.1 * jax.random.normal(key, (size, 3)), "b": jnp.zeros(3)}
"""
FWD = """
def fwd(example, weights, options):
    x = example["image"].astype(jnp.float32).reshape(-1)
    return x @ weights["w"] + weights["b"]
"""
GOOD = IMPORTS + INIT + FWD
HOOKS = """
def gradients(examples, weights, options, loss):
    x = examples["image"].astype(jnp.float32).reshape(len(examples["image"]), -1)
    outputs = x @ weights["w"] + weights["b"][None]
    _, back, rows = jax.vjp(loss, outputs, has_aux=True)
    (errors,) = back(jnp.float32(1))
    bounds = (1 + jnp.abs(x).sum(axis=1)) * jnp.abs(errors).sum(axis=1)
    return {"w": x.T @ errors, "b": errors.sum(axis=0)}, bounds, rows

def to_layout(weights):
    return {**weights, "w": weights["w"].T}

def from_layout(weights):
    return {**weights, "w": weights["w"].T}
"""
X = "    return x @"  # the line before which a mistake is put
