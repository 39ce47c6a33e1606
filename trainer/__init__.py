"""A small distributed trainer in JAX: exact resume, preemption safety and speed."""
