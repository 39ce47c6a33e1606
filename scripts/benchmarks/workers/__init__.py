"""One measurement each, run in a process of its own: `python -m benchmarks.workers.NAME JSON`."""
