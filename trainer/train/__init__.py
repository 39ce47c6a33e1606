"""A training run in order of time.

Read job (one run, from start to exit code), build (everything before the first step), then loop.
The others are opened from there: programs, feed, progress, resume, writer, steps_per_dispatch.
"""
