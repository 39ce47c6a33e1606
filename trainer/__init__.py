"""A small distributed trainer in JAX: exact resume, preemption safety and speed."""

import time

__version__ = "0.1.0"

BEGAN = time.monotonic()  # before the imports, which the goodput account counts
