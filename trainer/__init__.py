"""A small distributed trainer in JAX: exact resume, preemption safety and speed."""

import time

__version__ = "0.1.0"

BEGAN = time.monotonic()  # before the imports, which the goodput account counts


def __getattr__(name: str) -> object:  # not imported above: numpy and jax take a second
    if name == "Dataset":
        from trainer.data.dataset import Dataset

        return Dataset
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
