"""A training run in order of time: job, build, loop."""
