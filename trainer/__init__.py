"""A small distributed trainer in JAX: exact resume, preemption safety and speed.

From Python: `fit`, `load` and `evaluate`, the type `Dataset`, and `TrainerError`, which they raise.
Each is imported when it is used.
"""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api.fit import Result, evaluate, fit, load
    from trainer.data.dataset import Dataset
    from trainer.job.errors import TrainerError

__version__ = "0.1.0"
__all__ = ["Dataset", "Result", "TrainerError", "evaluate", "fit", "load"]
_MODULES = {"Dataset": "trainer.data.dataset", "TrainerError": "trainer.job.errors"}

BEGAN = time.monotonic()  # before the imports, which the goodput account counts


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(_MODULES.get(name, "trainer.api.fit")), name)
    raise AttributeError(f"module 'trainer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["__version__", *__all__]
