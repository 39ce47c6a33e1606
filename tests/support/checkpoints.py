"""A small state, and what is compared of it."""

import jax
import numpy as np

from trainer.checkpoint.store import Best

BEST = Best("accuracy", largest=True)


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(size=(300, 50)).astype(np.float32),
        "layers": [rng.normal(size=7).astype(np.float32), np.array(seed, np.int32)],
    }


def results(accuracy):
    return None if accuracy is None else {"validation_accuracy": accuracy}


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [x.dtype for x in jax.tree.leaves(a)] == [x.dtype for x in jax.tree.leaves(b)]
