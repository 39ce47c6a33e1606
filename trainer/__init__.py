"""A small distributed trainer in JAX: exact resume, preemption safety and speed."""

import time

BEGAN = time.monotonic()  # before the imports, which the goodput account counts
