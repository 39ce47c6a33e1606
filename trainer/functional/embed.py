"""An embedding: one row of a table for each token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, normal


class Weights(NamedTuple):
    """Weights of an embedding."""

    table: jax.Array  # (vocabulary_size, features)


def init(
    key: jax.Array,
    vocabulary_size: int,
    features: int,
    initializer: Initializer = normal(0.02),  # noqa: B008  (a pure function)
    dtype: jax.typing.DTypeLike = "float32",
) -> Weights:
    """Draw a table (vocabulary_size, features) of `dtype`."""
    return Weights(initializer(key, (vocabulary_size, features), dtype))


def fwd(tokens: jax.Array, weights: Weights) -> jax.Array:
    """Look up the rows of one example's tokens.

    Takes tokens of any shape and integer dtype, gives (*tokens.shape, features) of the table's
    dtype. A token outside the vocabulary gives NaN, so that training stops instead of learning
    from a wrong row.

    Raises:
        TypeError: at trace time, if the tokens are not integers.
    """
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"embed.fwd takes integer tokens, got {tokens.dtype}{list(tokens.shape)}")
    # wrap_negative_indices=False: -1, the usual mark of padding, is not the last row.
    return weights.table.at[tokens].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
    )
