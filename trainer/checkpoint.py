"""Checkpoints by orbax, with a digest of every array that is checked on the way back.

The state is the same on every device, so process 0 alone writes and reads it: no other process
needs the disk, and none can hang in a save. Orbax restores flipped bits without a word; therefore
the record beside the arrays holds a SHA-256 of each, and one of itself.
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

from trainer import saved
from trainer.digest import Damaged, Record, leaves_of, seal
from trainer.errors import DataError

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
        """
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._identity = self._look()
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._warn = warn
        self._accuracies: dict[int, float] = {}
        # A checkpoint counts once its commit file is there, so that a killed save never does.
        committed = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)
        self._checkpointer = ocp.AsyncCheckpointer(
            saved.handler(),
            multiprocessing_options=saved.ALONE,
            atomicity_options=committed,
        )
        self._sweep()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
            self._checkpointer.close()
        except Exception:
            if kind is None:  # otherwise what ended the block is the better news
                raise

    @property
    def steps(self) -> list[int]:
        """The steps that have a committed checkpoint, oldest first."""
        return saved.steps(self.directory)

    def save(self, step: int, state: Tree, record: Record, accuracy: float | None = None) -> None:
        """Start writing a checkpoint and return; a save still under way is waited for first.

        Args:
            step: optimizer steps done.
            state: a pytree of numpy arrays, not to be changed before the write ends.
            record: what to know beside the arrays; JSON.
            accuracy: on the test split, where it is known for these weights.

        Raises:
            OSError: the folder is not the one that was opened; orbax would make a new one, which
                no lock of this run protects.
        Raises anything else that made the save before it fail.
        """
        self.wait()
        if self._look() != self._identity:
            raise FileNotFoundError(None, "the folder has been moved or deleted")
        sealed = seal({**record, "step": step, "test_accuracy": accuracy}, state)
        self._checkpointer.save(
            self.directory / str(step),
            args=ocp.args.StandardSave(state),
            custom_metadata=sealed,
            force=True,
        )
        if accuracy is not None:
            self._accuracies[step] = accuracy

    def wait(self) -> None:
        """Wait for the save under way and drop what is no longer to be kept.

        Raises what made the save fail.
        """
        try:
            self._checkpointer.wait_until_finished()
        except BaseException:
            self._sweep()
            raise
        self._retire()

    def restore(self, template: Tree) -> Restored | None:
        """Read the newest intact checkpoint; None if there has never been one.

        A checkpoint that cannot be read, or whose contents do not match their digests, is renamed
        away with a warning, and the next older one is tried.

        Args:
            template: a pytree of arrays or shapes, as it was saved.

        Raises:
            DataError: there are checkpoints, and none is intact.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                restored = self.load(step, template)
            except Exception as error:  # orbax raises anything on damaged files
                self._set_aside(step, error)
            else:
                self._accuracies = self._recorded_accuracies()
                return restored
        if steps:
            raise DataError(
                f"{self.directory}: none of the checkpoints {steps} is intact; they are renamed "
                "to bad-*, nothing is deleted: start again with another run.name, or put an "
                "intact copy back"
            )
        return None

    def newest_record(self) -> Record | None:
        """Return the record of the newest checkpoint whose record is intact; None without one.

        Unlike restore() it reads no arrays and sets nothing aside.
        """
        for step in reversed(self.steps):
            try:
                return saved.record_of(self.directory / str(step))[0]
            except Damaged:  # restore() tells of it
                continue
        return None

    def load(self, step: int, template: Tree) -> Restored:
        """Read one checkpoint and check it against its digests; a save under way is waited for.

        Raises anything: Damaged where a digest does not match, what orbax raises otherwise.
        """
        self._checkpointer.wait_until_finished()
        shapes = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
        state, record = saved.read(self._checkpointer, self.directory / str(step), shapes)
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
            if path.name.startswith(saved.TRASH) or saved.WRITING in path.name:
                shutil.rmtree(path, ignore_errors=True)

    def _retire(self) -> None:
        """Delete what is neither among the newest nor among the best.

        Renamed first, so that a process killed half-way leaves nothing that looks like a
        checkpoint.
        """
        steps = self.steps
        best = sorted(
            (step for step in steps if step in self._accuracies), key=self._accuracies.__getitem__
        )
        keep = {*steps[-self._keep_last :], *best[len(best) - self._keep_best :]}
        for step in set(steps) - keep:
            trash = self.directory / f"{saved.TRASH}{step}"
            (self.directory / str(step)).rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def _recorded_accuracies(self) -> dict[int, float]:
        accuracies = {}
        for step in self.steps:
            with suppress(Damaged):  # an older one, that nobody needs now
                record, _ = saved.record_of(self.directory / str(step))
                if isinstance(record.get("test_accuracy"), float):
                    accuracies[step] = record["test_accuracy"]
        return accuracies

    def _set_aside(self, step: int, error: Exception) -> None:
        folder = self.directory / str(step)
        reason = saved.explain(folder, error)
        number = 0
        while (aside := self.directory / f"{saved.ASIDE}{step}.{number}").exists():
            number += 1
        folder.rename(aside)
        self._warn(f"checkpoint {folder} is damaged ({reason}): renamed to {aside.name}")


def weights_sha256(weights: Any) -> str:
    """Return the SHA-256 over the bytes of all leaves, in tree order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
