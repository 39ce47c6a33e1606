"""Saves checkpoints while training continues: on process 0, or on all if the state is sharded."""

import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainer.checkpoint import shards
from trainer.checkpoint.checksums import Record
from trainer.checkpoint.shared import SharedCheckpoints
from trainer.checkpoint.store import Checkpoints
from trainer.job.errors import ConfigError, SaveError, TrainerError, first_line
from trainer.parallel.compiler import CompiledFunction
from trainer.parallel.memory import room_for
from trainer.parallel.step import TrainState
from trainer.tracking.goodput import PhaseTimer
from trainer.train.progress import State as ProgressState

HINT = "free some space or repair the folder, then run the same command again"


class Writer(AbstractContextManager["Writer"]):
    """Writes one checkpoint at a time, in a thread; a context manager.

    A save that fails is counted and the next one is tried: a full disk may be cleaned up.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | SharedCheckpoints,
        record: Record,
        *,
        flush: Callable[[], None],
        max_failed_saves: int,
        timer: PhaseTimer,
        warn: Callable[[str], None],
    ) -> None:
        """Get ready to save; nothing is written yet.

        Args:
            checkpoints: of the run; SharedCheckpoints for a state that is sharded.
            record: what every checkpoint keeps beside the arrays; JSON.
            flush: brings all logged points to disk; called before each checkpoint.
            max_failed_saves: how many saves in a row may fail.
            timer: counts how long training waits for a save.
            warn: shows one line to the user.
        """
        self.checkpoints, self._record, self._flush = checkpoints, record, flush
        self._max_failed_saves, self._timer, self._warn = max_failed_saves, timer, warn
        self._directory = checkpoints.directory.parent
        # A program for the arrays of each device; none: they are copied to the host. Decided at the
        # first save.
        self._copy_on_device: list[CompiledFunction] | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: Future[str | None] | None = None  # returns a warning, or None
        self._failed: list[str] = []  # why the last saves in a row failed
        self._failure: TrainerError | None = None  # set once too many have failed

    def save(
        self,
        step: int,
        state: TrainState,
        progress: ProgressState,
        results: Mapping[str, float] | None,
    ) -> None:
        """Start writing a checkpoint; the state may be donated as soon as this returns.

        Waits for the save before it, if that is not done. A failure shows at the next call.
        """
        with self._timer.phase("save"):
            self._collect(wait=True)
            copies = self._snapshot(self._to_save(state))
            record = {**self._record, "progress": progress}

            def write() -> str | None:
                # First the points, then the checkpoint: a run that resumes from it does not log
                # the points before it again.
                if isinstance(self.checkpoints, SharedCheckpoints):
                    chunks = {place: chunk for of_one in copies for place, chunk in of_one.items()}
                    copies.clear()  # each chunk is freed as soon as it is written
                    return self.checkpoints.save(step, chunks, record, results, self._flush)
                self._flush()
                return self.checkpoints.save(step, jax.device_get(copies[0]), record, results)

            self._saving = self._thread.submit(write)

    def failing(self) -> bool:
        """Return whether more saves in a row have failed than may; does not wait."""
        self._collect(wait=False)
        return self._failure is not None

    def finish(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            SaveError: it could not be written, or too many before it could not.
            ConfigError: another job may be writing to the run directory.
        """
        with self._timer.phase("save"):
            self._collect(wait=True)
        if self._failure is not None:
            raise self._failure
        if self._failed:
            message = f"the last checkpoint is not written to {self._directory}"
            raise SaveError(f"{message}: {self._failed[-1]}", HINT)

    def __exit__(self, *_: object) -> None:
        """Let the save under way finish, whatever ends the run."""
        self._collect(wait=True)
        self._thread.shutdown()

    def _to_save(self, state: TrainState) -> list[Any]:
        """Return the arrays that this process writes: a pytree for each device that holds some."""
        if isinstance(self.checkpoints, SharedCheckpoints):
            return [*shards.own(state).values()]
        return [jax.tree.map(lambda leaf: leaf.addressable_data(0), state)]

    def _snapshot(self, states: list[Any]) -> list[Any]:
        """Return copies of the arrays: the next step overwrites the originals, which are donated.

        A copy on the device does not wait for the device and takes a moment, but needs as much
        memory again until the checkpoint is written. Without that memory, copy to the host: this
        waits for the device.
        """
        if self._copy_on_device is None:  # later, the peak would include the copy itself
            has_room = all(room_for(jax.tree.leaves(of_one)) for of_one in states)
            copy = jax.jit(partial(jax.tree.map, jnp.copy))
            compiled = [CompiledFunction(copy, self._timer) for _ in states]
            self._copy_on_device = compiled if has_room else []
        if self._copy_on_device:
            pairs = zip(self._copy_on_device, states, strict=True)
            return [copy(of_one) for copy, of_one in pairs]
        return [jax.tree.map(np.array, of_one) for of_one in states]

    def _collect(self, *, wait: bool) -> None:
        """Take the result of the save under way, if it is done or with `wait`."""
        if self._saving is None or not (wait or self._saving.done()):
            return
        saving, self._saving = self._saving, None
        try:
            warning = saving.result()
        except ConfigError as error:  # the run directory is no longer that of this job
            self._failure = error
        except Exception as error:  # orbax raises anything when it cannot write
            full, why = os.strerror(errno.ENOSPC), first_line(error)
            # Orbax says so at the end of a long line; a SaveError may name a process.
            if not isinstance(error, SaveError) and (full in why or "os_error_code='28'" in why):
                why = full
            self._failed.append(why)
            count, limit = len(self._failed), self._max_failed_saves
            message = f"a checkpoint cannot be written to {self._directory}: {why}"
            self._warn(f"{message} (failure {count} in a row, {limit} are tolerated)")
            if count > limit:
                rule = f"checkpoint.max_failed_saves={limit}; those before it are intact"
                self._failure = SaveError(f"{message}. {rule}", HINT)
        else:
            self._failed.clear()
            if warning:
                self._warn(warning)
