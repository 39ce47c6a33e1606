"""A small distributed trainer in JAX: exact resume, preemption safety and speed.

From Python: `fit`, `load` and `evaluate`, and the type `Dataset`. Each is imported when it is used.
"""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api.fit import Result, evaluate, fit, load
    from trainer.data.dataset import Dataset

__version__ = "0.1.0"
__all__ = ["Dataset", "Result", "evaluate", "fit", "load"]

BEGAN = time.monotonic()  # before the imports, which the goodput account counts


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "trainer.data.dataset" if name == "Dataset" else "trainer.api.fit"
        return getattr(import_module(module), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")
