"""A profile of some steps, for TensorBoard's profiler: train.profile_steps=[FIRST,LAST]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from trainer.job.errors import first_line


class Profile:
    """Records the dispatches that do the steps FIRST to LAST, counted from 1; a context manager."""

    def __init__(
        self, directory: Path, steps: Sequence[int] | None, warn: Callable[[str], None]
    ) -> None:
        """Describe what to record.

        Args:
            directory: of the event files; the profile goes to plugins/profile/TIME/ in it.
            steps: FIRST and LAST; None: nothing is recorded.
            warn: told when the profile cannot be written; training goes on.
        """
        self._directory = directory
        self._steps = steps
        self._running = False
        self._warn = warn

    def starting(self, steps: range) -> None:
        """Begin to record if a dispatch, about to start, does the first of the steps or later ones.

        A run that is resumed behind FIRST records what is left.
        """
        if self._steps is not None and not self._running:
            first, last = self._steps
            if steps.stop >= first and steps.start < last:
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # it slows the host down several times
                jax.profiler.start_trace(self._directory, profiler_options=options)
                self._running = True

    def settled(self, done: int) -> None:
        """Write the profile when the last of the steps is done; takes a second."""
        if self._running and self._steps is not None and done >= self._steps[1]:
            self.close()

    def close(self) -> None:
        """Write what was recorded, if anything."""
        if self._running:
            self._running, self._steps = False, None
            try:
                jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:  # the latter is jaxlib's, of a full disk
                self._warn(f"the profile cannot be written, training goes on: {first_line(error)}")

    def __enter__(self) -> Profile:
        """Return the profile itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
