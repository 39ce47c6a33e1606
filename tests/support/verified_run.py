"""The states and the record of a run to verify."""

import numpy as np

from trainer.optimizers.optimizer import State
from trainer.parallel.step import TrainState

RECORD = {  # the least that a record has
    "meaning": {
        "data set": {"name": "digits", "sha256": "0", "train_examples": 2, "test_examples": 1}
    },
    "config": {
        "model": {},
        "data": {"name": "idx", "cache_dir": "", "mirrors": [], "sha256": {}}
        | {"download": False, "timeout_seconds": 1},
        "train": {"eval_batch_size": 1},
    },
    "versions": {},
}


def make_state(seed):
    rng = np.random.default_rng(seed)
    weights = [tuple(rng.normal(size=size).astype(np.float32) for size in ((20, 30), (30,)))]
    return TrainState(weights, State(weights), np.array(seed, np.int32))
