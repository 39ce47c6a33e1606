"""The checkpoints of a run, written by orbax and verified by checksums when they are read.

All devices hold the same state, so process 0 alone writes and reads it: no other process needs the
disk, and none can hang in a save. Orbax restores flipped bits silently. Therefore the record beside
the arrays holds a SHA-256 of each array, of every file, and of the record itself.

A checkpoint is written under a temporary name, brought to disk with fsync, and then renamed to its
step. After that it is committed: no crash of the process or the machine leaves half a checkpoint
under such a name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from trainer.checkpoint import files
from trainer.checkpoint.checksums import Damaged, Record
from trainer.job.directory import ASIDE, TRASH, WRITING
from trainer.job.errors import DataError, ReadError, first_line, writing
from trainer.job.files import sync_folder, sync_tree

Tree = TypeVar("Tree")  # a pytree of arrays


class Restored(NamedTuple):
    """A checkpoint that was read and is intact."""

    step: int
    state: Any  # numpy arrays in the structure of the template
    record: Record  # as given to save()


class Checkpoints:
    """The checkpoints of one run directory; a context manager, used by process 0 alone."""

    def __init__(
        self, directory: Path, *, keep_last: int, keep_best: int, warn: Callable[[str], None]
    ) -> None:
        """Open a folder of checkpoints, folders named by their steps; make it if it is missing.

        The `keep_last` newest and the `keep_best` most accurate are kept. `warn` gets a message for
        every checkpoint that is renamed because it is damaged.
        """
        self.directory = directory.absolute()
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._warn = warn
        self._accuracies: dict[int, float] = {}
        self._checkpointer = files.checkpointer()
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._opened = self._folder_id()
            self._clean_up()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first."""
        return files.steps(self.directory)

    def save(
        self, step: int, state: Tree, record: Record, accuracy: float | None = None
    ) -> str | None:
        """Write a checkpoint, unless the step has one, and delete those that are no longer kept.

        When this returns, the checkpoint is on disk; when it raises (orbax has errors of many
        kinds), those before it are intact.

        Args:
            step: optimizer steps done.
            state: a pytree of numpy arrays.
            record: kept with the arrays; JSON.
            accuracy: of these weights on the test split, 0 to 1, if it was measured.

        Returns:
            None, or a warning: the checkpoint is saved, but older ones cannot be deleted.
        """
        # In place of a folder that is gone, orbax would make one without the lock of this run.
        if self._folder_id() != self._opened:
            raise FileNotFoundError(None, "the folder has been moved or deleted")
        if step in self.steps:
            return None
        written, committed = self.directory / f"{WRITING}{step}", self.directory / str(step)
        try:
            with files.plain(self.directory) as directory:
                self._checkpointer.save(directory / written.name, args=ocp.args.PyTreeSave(state))
            files.write_record(written, {**record, "step": step, "test_accuracy": accuracy}, state)
            sync_tree(written)
            written.rename(committed)
            sync_folder(self.directory)
        except BaseException:
            self._clean_up()
            raise
        if accuracy is not None:
            self._accuracies[step] = accuracy
        try:
            self._retire()
        except (OSError, ReadError) as error:
            reason = f"older ones cannot be deleted: {first_line(error)}"
            return f"checkpoint {committed} is saved, but {reason}"
        return None

    def restore(self, template: Tree) -> Restored | None:
        """Read the newest intact checkpoint; None if there has never been one.

        The template is a pytree of arrays or shapes, as saved. A checkpoint that is damaged or does
        not fit it is renamed, with a warning, and the next older one is tried.

        Raises:
            DataError: there are checkpoints, and none is intact.
            ReadError: the storage fails; the checkpoint may be intact, so it is not renamed.
        """
        arrays = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
        for step in reversed(self.steps):
            try:
                folder = self.directory / str(step)
                state, record = files.read(self._checkpointer, folder, arrays)
                if jax.tree.map(np.shape, state) != jax.tree.map(np.shape, arrays):
                    raise Damaged("its arrays have other shapes than the state of this model")
            except Damaged as damage:
                self._set_aside(step, damage)
            else:
                self._accuracies = self._recorded_accuracies()
                return Restored(step, state, record)
        # Those that an earlier start renamed count too: starting over would overwrite their run.
        if aside := sorted(path.name for path in self.directory.glob(f"{ASIDE}*")):
            raise DataError(
                f"{self.directory}: none of the checkpoints is intact; they are renamed to "
                f"{', '.join(aside)}, nothing is deleted: put an intact copy back, or start "
                "another run with run.name=NAME"
            )
        return None

    def newest_record(self) -> Record | None:
        """Return the newest intact record, or None; reads no arrays and renames nothing."""
        for step in reversed(self.steps):
            with suppress(Damaged):  # restore() will report it
                return files.record_of(self.directory / str(step))
        return None

    def _folder_id(self) -> tuple[int, int]:
        """Return device and inode: another folder with the same name has others."""
        status = self.directory.stat()
        return status.st_dev, status.st_ino

    def _clean_up(self) -> None:
        """Remove what a killed process or a failed save has left half written or half deleted."""
        for path in self.directory.iterdir():
            if path.name.startswith((TRASH, WRITING)):
                shutil.rmtree(path, ignore_errors=True)

    def _retire(self) -> None:
        """Delete the checkpoints that are neither among the newest nor among the best.

        They are renamed first, with fsync, so that a crash does not leave half a checkpoint.
        """
        steps = self.steps
        best = sorted(
            set(steps) & self._accuracies.keys(), key=lambda s: (-self._accuracies[s], -s)
        )
        keep = {*steps[-self._keep_last :], *best[: self._keep_best]}
        if old := set(steps) - keep:
            for step in old:
                (self.directory / str(step)).rename(self.directory / f"{TRASH}{step}")
            sync_folder(self.directory)
            self._clean_up()

    def _recorded_accuracies(self) -> dict[int, float]:
        accuracies = {}
        for step in self.steps:
            with suppress(Damaged, ReadError):  # an older one that nobody needs now
                accuracies[step] = files.record_of(self.directory / str(step))["test_accuracy"]
        return {step: value for step, value in accuracies.items() if value is not None}

    def _set_aside(self, step: int, damage: Damaged) -> None:
        folder, number = self.directory / str(step), 0
        while (aside := self.directory / f"{ASIDE}{step}.{number}").exists():
            number += 1
        with writing(folder):
            folder.rename(aside)
        self._warn(f"checkpoint {folder} is damaged ({damage}): renamed to {aside.name}")
