"""The checkpoints of a run, written by orbax and verified by checksums when they are read.

Where all devices hold the same state, process 0 alone writes and reads it: no other process needs
the disk, and none can hang in a save. Orbax restores flipped bits silently. Therefore the record
beside the arrays holds a SHA-256 of each array, of every file, and of the record itself.

Of a state that is sharded, each process writes its chunks (see shards.py), and process 0 the record
once all of them are on disk.

A checkpoint is written under a temporary name, brought to disk with fsync, and then renamed to its
step. After that it is committed: no crash of the process or the machine leaves half a checkpoint
under such a name.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orbax.checkpoint as ocp

from trainer.checkpoint import files, shards
from trainer.checkpoint.checksums import Record
from trainer.job import lock
from trainer.job.directory import ASIDE, TRASH, WRITING
from trainer.job.errors import ConfigError, DataError, ReadError, first_line, writing
from trainer.job.files import Damaged, read_bytes, sync_folder, sync_tree, write_text
from trainer.tasks.task import named_leaves

Tree = TypeVar("Tree")  # a pytree of arrays


OWNER = "run.txt"  # behind a link: the run whose checkpoints these are


class Best(NamedTuple):
    """Which checkpoints are the best: checkpoint.best."""

    metric: str  # "loss" or one of the task's
    largest: bool  # whether the largest value is the best

    @classmethod
    def of(cls, text: str) -> Best:
        """Return what METRIC:max or METRIC:min means."""
        metric, _, direction = text.partition(":")
        return cls(metric, direction == "max")

    def value(self, results: Mapping[str, float | None]) -> float | None:
        """Return a number that is smaller for better results on the validation split.

        NaN is the worst. None: that split was not evaluated, and nothing else counts.
        """
        result = results.get(f"validation_{self.metric}")
        if result is None:
            return None
        value = float(result)
        return math.inf if math.isnan(value) else -value if self.largest else value


class Restored(NamedTuple):
    """A checkpoint that was read and is intact."""

    step: int
    state: Any  # numpy arrays in the structure of the template; shapes, if they are in chunks
    record: Record  # as given to save()
    chunks: shards.Chunks | None = None  # of a sharded state: what is to be read of its arrays


class Checkpoints:
    """The checkpoints of one run directory; a context manager, used by process 0 alone."""

    def __init__(
        self,
        directory: Path,
        *,
        keep_last: int,
        keep_best: int,
        best: Best,
        warn: Callable[[str], None],
        shape: Mapping[str, Any] | None = None,
    ) -> None:
        """Open a folder of checkpoints, folders named by their steps; make it if it is missing.

        The `keep_last` newest are kept, and the `keep_best` best on the validation split. `warn`
        gets a message for every checkpoint that is renamed because it is damaged. `shape` is that
        of a record, None for any.
        """
        self._shape = shape or {}
        self.directory = directory.absolute()
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._best = best
        self._warn = warn
        self._values: dict[int, float] = {}  # step -> its value, the smallest is the best
        self._checkpointer = files.checkpointer()
        with writing(self.directory):
            _check_link(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            self._opened = self._folder_id()
            self.clean_up()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first."""
        return files.steps(self.directory)

    def save(
        self, step: int, state: Tree, record: Record, results: Mapping[str, float] | None = None
    ) -> str | None:
        """Write a checkpoint, unless the step has one, and delete those that are no longer kept.

        When this returns, the checkpoint is on disk; when it raises (orbax has errors of many
        kinds), those before it are intact.

        Args:
            step: optimizer steps done.
            state: a pytree of numpy arrays.
            record: kept with the arrays; JSON.
            results: of an evaluation of these weights, such as validation_loss; if there was one.

        Returns:
            None, or a warning: the checkpoint is saved, but older ones cannot be deleted.

        Raises:
            ConfigError: the lock of the run was removed: another job may be writing here.
        """
        if not self._begin(step):
            return None
        written = self.directory / f"{WRITING}{step}"
        try:
            with files.plain(self.directory) as directory:
                self._checkpointer.save(
                    directory / written.name, args=ocp.args.PyTreeSave(_nested(state))
                )
            return self.commit(written, step, record, results, state)
        except BaseException:
            self.clean_up()
            raise

    def begin_shards(self, step: int) -> Path | None:
        """Make a folder in which all processes write their chunks; None if the step is saved.

        Its name is new: a process that is late with an earlier save does not write there.

        Raises:
            ConfigError: as `save` does.
        """
        if not self._begin(step):
            return None
        folder = self.directory / f"{WRITING}{step}.{secrets.token_hex(8)}"
        folder.mkdir()
        return folder

    def _begin(self, step: int) -> bool:
        """Return whether the step is to be saved: there is no checkpoint of it."""
        # In place of a folder that is gone, orbax would make one without the lock of this run.
        if self._folder_id() != self._opened:
            raise FileNotFoundError(None, "the folder has been moved or deleted")
        lock.check(self.directory.parent)
        return step not in self.steps

    def commit(
        self,
        written: Path,
        step: int,
        record: Record,
        results: Mapping[str, float] | None,
        state: Tree | None = None,
        tables: Sequence[str] | None = None,
    ) -> str | None:
        """Turn a folder with arrays into the checkpoint of a step; delete those no longer kept.

        Of a sharded state, `tables` are what `shards.write` returned to each process, and no
        `state` is given. The rest is as in `save`.
        """
        record = {**record, "step": step, **(results or {})}
        files.write_record(written, record, state, tables)
        committed = self.directory / str(step)
        sync_tree(written)
        written.rename(committed)
        sync_folder(self.directory)
        if (value := self._best.value(results or {})) is not None:
            self._values[step] = value
        try:
            self._retire()
        except (OSError, ReadError) as error:
            reason = f"older ones cannot be deleted: {first_line(error)}"
            return f"checkpoint {committed} is saved, but {reason}"
        return None

    def restore(self, template: Tree) -> Restored | None:
        """Read the newest intact checkpoint; None if there has never been one.

        The template is a pytree of arrays or shapes, as saved. A checkpoint that is damaged or does
        not fit it is renamed, with a warning, and the next older one is tried. Of a sharded one,
        the chunks are left to be read, by any process; see `set_aside`.

        Raises:
            DataError: there are checkpoints, and none is intact.
            ReadError: the storage fails; the checkpoint may be intact, so it is not renamed.
        """
        for step in reversed(self.steps):
            try:
                folder = self.directory / str(step)
                record, _, _, chunks = files.opened(folder, self._shape)
                if chunks is None:
                    arrays, _ = files.read(self._checkpointer, folder, self._shape)
                    state = files.fit(arrays, template)
                else:
                    state = files.fit(shards.shapes(chunks), template)
            except Damaged as damage:
                self.set_aside(step, str(damage))
            else:
                self._values = self._recorded_values()
                return Restored(step, state, record, chunks)
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
                return files.opened(self.directory / str(step), self._shape).record
        return None

    def _folder_id(self) -> tuple[int, int]:
        """Return device and inode: another folder with the same name has others."""
        status = self.directory.stat()
        return status.st_dev, status.st_ino

    def clean_up(self) -> None:
        """Remove what a killed process or a failed save has left half written or half deleted."""
        for path in self.directory.iterdir():
            if path.name.startswith((TRASH, WRITING)):
                shutil.rmtree(path, ignore_errors=True)

    def _retire(self) -> None:
        """Delete the checkpoints that are neither among the newest nor among the best.

        They are renamed first, with fsync, so that a crash does not leave half a checkpoint.
        """
        steps = self.steps
        best = sorted(set(steps) & self._values.keys(), key=lambda s: (self._values[s], -s))
        keep = {*steps[-self._keep_last :], *best[: self._keep_best]}
        if old := set(steps) - keep:
            for step in old:
                (self.directory / str(step)).rename(self.directory / f"{TRASH}{step}")
            sync_folder(self.directory)
            self.clean_up()

    def _recorded_values(self) -> dict[int, float]:
        values = {}
        for step in self.steps:
            with suppress(Damaged, ReadError):  # an older one that nobody needs now
                record = files.opened(self.directory / str(step), self._shape).record
                if "validation_fraction" not in record.get("config", {}).get("data", {}):
                    # An older version selected by the test split: what it kept stays kept.
                    tested = {k.replace("test_", "validation_"): v for k, v in record.items()}
                    record = {**tested, **record}
                if (value := self._best.value(record)) is not None:
                    values[step] = value
        return values

    def set_aside(self, step: int, damage: str) -> None:
        """Rename a checkpoint that is damaged, with a warning that says so."""
        folder, number = self.directory / str(step), 0
        while (aside := self.directory / f"{ASIDE}{step}.{number}").exists():
            number += 1
        with writing(folder):
            folder.rename(aside)
        self._warn(f"checkpoint {folder} is damaged ({damage}): renamed to {aside.name}")


def _check_link(directory: Path) -> None:
    """Check that a link to a folder of checkpoints leads to that of this run and of no other.

    The lock guards the run directory, and a copy of a run copies the link: both would delete and
    overwrite the other's checkpoints. So the folder behind a link keeps the name of its run.
    """
    if not directory.is_symlink():
        return
    if not directory.exists():
        message = f"{directory} is a link to {directory.readlink()}, which does not exist"
        raise ConfigError(message, "make that folder, or remove the link")
    owner, run = directory / OWNER, str(directory.parent.resolve())
    if not owner.exists():
        write_text(owner, run)
    elif (other := read_bytes(owner).decode("utf-8", "replace")) != run:
        message = f"{directory} is a link to the checkpoints of another run, {other}"
        raise ConfigError(message, f"remove the link; or, if that run was moved here, {owner}")


def _nested(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree in nested dicts by their paths: orbax knows all dicts."""
    nested: dict[str, Any] = {}
    for path, leaf in named_leaves(tree).items():
        *parents, last = path.split("/")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return nested
