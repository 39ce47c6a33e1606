"""A profile of some steps, for TensorBoard's profiler: train.profile_steps=[FIRST,LAST]."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from trainer.job.errors import first_line


class Profile(AbstractContextManager["Profile"]):
    """Records the dispatches that do the steps FIRST to LAST, counted from 1."""

    def __init__(
        self, directory: Path, steps: Sequence[int] | None, warn: Callable[[str], None]
    ) -> None:
        """Write to plugins/profile/TIME/ in `directory`, that of the event files.

        `steps` are FIRST and LAST, or None to record nothing; `warn` gets a message if the
        profile cannot be written.
        """
        self._directory, self._steps, self._warn = directory, steps, warn
        self._running = False

    def starting(self, steps: range) -> None:
        """Start recording if a dispatch of these steps, counted from 0, reaches FIRST.

        A run that resumes behind FIRST records the rest.
        """
        if self._steps is None or self._running:
            return
        first, last = self._steps
        if steps.stop >= first and steps.start < last:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it slows the host down several times
            jax.profiler.start_trace(self._directory, profiler_options=options)
            self._running = True

    def steps_done(self, steps: int) -> None:
        """Write the profile once LAST is done; this takes a second."""
        if self._running and self._steps is not None and steps >= self._steps[1]:
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        """Write what was recorded, if anything."""
        if self._running:
            self._running, self._steps = False, None
            try:
                jax.profiler.stop_trace()
            except (OSError, RuntimeError) as error:  # the latter is jaxlib's, of a full disk
                reason = first_line(error)
                self._warn(f"the profile cannot be written, training continues: {reason}")
