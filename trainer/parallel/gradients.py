"""The gradients of a batch, and a bound on them that does without reading them. Pure."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from trainer.data.dataset import Superbatch
from trainer.functional import linear
from trainer.models import mlp
from trainer.tasks.classification import Objective, Sums, example_sums, standardised


class BatchGradients(NamedTuple):
    """What a batch says about the weights; the parts of a batch add up to the whole."""

    gradients: mlp.Weights  # of the summed loss
    bound: jax.Array  # (), float32: no element of the gradients is larger, but for rounding
    sums: Sums


def of_batch(weights: mlp.Weights, batch: Superbatch, objective: Objective) -> BatchGradients:
    """Differentiate the summed loss of images (rows, pixels), labels and mask (rows,), all uint8.

    The gradient of a kernel is the sum over the rows of a layer's input times the gradient of its
    output, so that the norms of these two bound it (sums of magnitudes, added up over the rows and
    layers). With 64 rows they are a quarter of the gradients in size.
    """
    rows = len(batch.labels)
    # A bias for each row has the gradient of that row's output.
    each = [
        layer._replace(bias=jnp.broadcast_to(layer.bias, (rows, *layer.bias.shape)))
        for layer in weights
    ]
    fwd = jax.vmap(
        partial(mlp.activations, precision=objective.precision),
        in_axes=(0, [linear.Weights(None, 0)] * len(weights)),  # type: ignore[arg-type]
    )

    def loss(each: mlp.Weights) -> tuple[jax.Array, tuple[list[jax.Array], Sums]]:
        *inputs, logits = fwd(standardised(jnp.asarray(batch.images), objective), each)
        sums = example_sums(logits, batch, objective)
        return jnp.sum(sums.loss), (inputs, sums)

    found, (inputs, sums) = jax.grad(loss, has_aux=True)(each)

    def norm(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(x), axis=1)

    # The 1 is the input of a bias.
    bounds = [(1 + norm(x)) * norm(layer.bias) for x, layer in zip(inputs, found, strict=True)]
    bound, *totals = _sums(sum(bounds[1:], bounds[0]), *sums)
    gradients = [layer._replace(bias=jnp.sum(layer.bias, axis=0)) for layer in found]
    return BatchGradients(gradients, bound, Sums(*totals))


def _sums(*vectors: jax.Array) -> tuple[jax.Array, ...]:
    """Add up vectors (rows,), float32, in one go: a GPU would start a kernel for each."""

    def add(a: tuple[jax.Array, ...], b: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    zeros = (jnp.float32(0),) * len(vectors)
    return tuple(lax.reduce(vectors, zeros, add, (0,)))
