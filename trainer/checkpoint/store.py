"""Checkpoints by orbax, with a digest of every array that is checked on the way back.

The state is the same on every device, so process 0 alone writes and reads it: no other process
needs the disk, and none can hang in a save. Orbax restores flipped bits without a word; therefore
the record beside the arrays holds a SHA-256 of each, of every file, and one of itself.

A checkpoint is written under another name and brought to disk before it gets its own: then it is
committed, and no crash of the process or the machine leaves half of one under that name.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from trainer.checkpoint import files
from trainer.checkpoint.checksums import Damaged, Record, leaves_of
from trainer.job.directory import ASIDE, TRASH, WRITING
from trainer.job.errors import DataError, ReadError, first_line, writing
from trainer.job.files import sync_folder, sync_tree

Tree = TypeVar("Tree")  # a pytree of arrays


class Restored(NamedTuple):
    """A checkpoint that was read back and found intact."""

    step: int
    state: Any  # the template's structure, numpy arrays
    record: Record  # what was given to save()


class Checkpoints:
    """The checkpoints of one run directory; a context manager, used by process 0 alone."""

    def __init__(
        self, directory: Path, *, keep_last: int, keep_best: int, warn: Callable[[str], None]
    ) -> None:
        """Open a folder of checkpoints, making it when missing.

        Args:
            directory: the folder; each checkpoint is a folder in it named by its step.
            keep_last: how many of the newest to keep.
            keep_best: how many of the most accurate to keep besides.
            warn: told of every checkpoint that is set aside.

        Raises:
            ConfigError, SaveError: the folder cannot be made or read.
        """
        self.directory = directory.absolute()
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._warn = warn
        self._accuracies: dict[int, float] = {}
        self._checkpointer = files.checkpointer()
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._identity = self._look()
            self._sweep()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps that have a committed checkpoint, oldest first."""
        return files.steps(self.directory)

    def save(
        self, step: int, state: Tree, record: Record, accuracy: float | None = None
    ) -> str | None:
        """Write a checkpoint, unless the step has one, and delete what is no longer to be kept.

        When this returns, the checkpoint is on disk; when it raises, those before it are intact.

        Args:
            step: optimizer steps done.
            state: a pytree of numpy arrays.
            record: what to know beside the arrays; JSON.
            accuracy: on the test split, where it is known for these weights.

        Returns:
            None, or what to warn of where the checkpoint is saved and older ones cannot be deleted.

        Raises:
            OSError: the folder is not the one that was opened; orbax would make a new one, which
                no lock of this run protects.
            Exception: orbax raises anything when it cannot write.
        """
        if self._look() != self._identity:
            raise FileNotFoundError(None, "the folder has been moved or deleted")
        if step in self.steps:
            return None
        written = self.directory / f"{WRITING}{step}"
        try:
            with files.plain(self.directory) as directory:
                self._checkpointer.save(directory / written.name, args=ocp.args.PyTreeSave(state))
            about = {**record, "step": step, "test_accuracy": accuracy}
            files.write_record(written, about, state)
            sync_tree(written)
            written.rename(self.directory / str(step))
            sync_folder(self.directory)
        except BaseException:
            self._sweep()
            raise
        if accuracy is not None:
            self._accuracies[step] = accuracy
        try:
            self._retire()
        except (OSError, ReadError) as error:
            what = f"checkpoint {self.directory / str(step)} is saved"
            return f"{what}, but older ones cannot be deleted: {first_line(error)}"
        return None

    def restore(self, template: Tree) -> Restored | None:
        """Read the newest intact checkpoint; None if there has never been one.

        A checkpoint whose files or contents do not match their digests is renamed away with a
        warning, and the next older one is tried.

        Args:
            template: a pytree of arrays or shapes, as it was saved.

        Raises:
            DataError: there are checkpoints, and none is intact.
            ReadError: one may be intact, but the storage does not give it; nothing is renamed.
        """
        for step in reversed(self.steps):
            try:
                restored = self.load(step, template)
            except Damaged as damage:
                self._set_aside(step, damage)
            else:
                self._accuracies = self._recorded_accuracies()
                return restored
        # Also those set aside by an earlier start: beginning anew would write over their run.
        if aside := sorted(path.name for path in self.directory.glob(f"{ASIDE}*")):
            raise DataError(
                f"{self.directory}: none of the checkpoints is intact; they are renamed to "
                f"{', '.join(aside)}, nothing is deleted: put an intact copy back, or begin "
                "another run with run.name=NAME"
            )
        return None

    def newest_record(self) -> Record | None:
        """Return the record of the newest checkpoint whose record is intact; None without one.

        Unlike restore() it reads no arrays and sets nothing aside.

        Raises:
            ReadError: the storage does not give it.
        """
        for step in reversed(self.steps):
            try:
                return files.record_of(self.directory / str(step))
            except Damaged:  # restore() tells of it
                continue
        return None

    def load(self, step: int, template: Tree) -> Restored:
        """Read one checkpoint and check it against its digests.

        Raises:
            Damaged: it is not what was saved, or not what the template describes.
            ReadError: the storage does not give it.
        """
        shapes = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
        state, record = files.read(self._checkpointer, self.directory / str(step), shapes)
        got = leaves_of(state)
        for path, want in leaves_of(template).items():
            if (want.shape, want.dtype) != (got[path].shape, got[path].dtype):
                raise Damaged(
                    f"array {path} is {got[path].dtype}{got[path].shape}, "
                    f"not {want.dtype}{want.shape}"
                )
        return Restored(step, state, record)

    def _look(self) -> tuple[int, int]:
        """Return what tells the folder from another of the same name."""
        found = self.directory.stat()
        return found.st_dev, found.st_ino

    def _sweep(self) -> None:
        """Remove what a killed process or a failed save left half done."""
        for path in self.directory.iterdir():
            if path.name.startswith((TRASH, WRITING)):
                shutil.rmtree(path, ignore_errors=True)

    def _retire(self) -> None:
        """Delete what is neither among the newest nor among the best.

        Renamed first, on disk too, so that no crash leaves half of one that looks like a
        checkpoint.
        """
        steps = self.steps
        best = sorted(
            (step for step in steps if step in self._accuracies), key=self._accuracies.__getitem__
        )
        keep = {*steps[-self._keep_last :], *best[max(0, len(best) - self._keep_best) :]}
        if old := set(steps) - keep:
            for step in old:
                (self.directory / str(step)).rename(self.directory / f"{TRASH}{step}")
            sync_folder(self.directory)
            self._sweep()

    def _recorded_accuracies(self) -> dict[int, float]:
        accuracies = {}
        for step in self.steps:
            with suppress(Damaged, ReadError):  # an older one, that nobody needs now
                record = files.record_of(self.directory / str(step))
                if isinstance(record.get("test_accuracy"), float):
                    accuracies[step] = record["test_accuracy"]
        return accuracies

    def _set_aside(self, step: int, damage: Damaged) -> None:
        folder = self.directory / str(step)
        number = 0
        while (aside := self.directory / f"{ASIDE}{step}.{number}").exists():
            number += 1
        with writing(folder):
            folder.rename(aside)
        self._warn(f"checkpoint {folder} is damaged ({damage}): renamed to {aside.name}")


def weights_sha256(weights: Any) -> str:
    """Return the SHA-256 over the bytes of all leaves, in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
