"""Checkpoints of a sharded state: all processes write their chunks to one folder.

Process 0 makes the folder, and commits it once all have brought their chunks to disk. They tell
each other so through KeyValues, from the threads that write, while training continues.
"""

import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import jax

from trainer.checkpoint import shards
from trainer.checkpoint.checksums import Record
from trainer.checkpoint.store import Checkpoints
from trainer.distributed import collectives
from trainer.distributed.collectives import Json, KeyValues
from trainer.job.directory import WRITING
from trainer.job.errors import ConfigError, SaveError, TrainerError, first_line, writing

Chunks = dict[shards.Place, Any]
Results = Mapping[str, float] | None

_NUMBERS = count(1)  # of the saves of this job, the same on all processes
HINT = (
    "all processes write and read the checkpoints of a sharded state: use a folder that all hosts "
    "share (run.root, run.dir)"
)


class SharedCheckpoints:
    """One process's part in writing the checkpoints of a run; all save the same steps in turn."""

    def __init__(
        self, directory: Path, checkpoints: Checkpoints | None, timeout_seconds: float
    ) -> None:
        """Get ready to save.

        Args:
            directory: the folder of the checkpoints, which all processes see.
            checkpoints: of the run, on process 0; None on all others.
            timeout_seconds: how much longer than another process each may take.
        """
        self.directory = directory
        self._checkpoints, self._timeout = checkpoints, timeout_seconds

    def save(self, step: int, chunks: Chunks, record: Record, results: Results) -> str | None:
        """Write a checkpoint with all other processes, each its own chunks; see Checkpoints.save.

        Record and results are those of process 0. What it returns or raises, all do.

        Raises:
            ConfigError: the lock of the run was removed.
            SaveError: a process cannot write; it is named.
            TimeoutError: process 0 does not answer.
        """
        number = next(_NUMBERS)
        values = KeyValues(f"trainer/save/{number}/")
        if self._checkpoints is None:
            return self._follow(values, chunks)
        before = KeyValues(f"trainer/save/{number - 1}/")
        return self._lead(self._checkpoints, values, before, step, chunks, record, results)

    def _follow(self, values: KeyValues, chunks: Chunks) -> str | None:
        name, rank = _value(values.get("folder", self._timeout)), jax.process_index()
        if name is None:
            return None
        written = _outcome(lambda: shards.write(self.directory / name, rank, chunks))
        values.put(f"written/{rank}", written)
        # Process 0 may wait for others until this time, and then has to commit.
        warning: str | None = _value(values.get("end", 2 * self._timeout))
        return warning

    def _lead(
        self,
        checkpoints: Checkpoints,
        values: KeyValues,
        before: KeyValues,
        step: int,
        chunks: Chunks,
        record: Record,
        results: Results,
    ) -> str | None:
        def begin() -> str | None:
            folder = checkpoints.begin_shards(step)
            return None if folder is None else folder.name

        begun = _outcome(begin)
        values.put("folder", begun)
        if (name := _value(begun)) is None:
            return None
        folder = self.directory / name

        def commit() -> str | None:
            try:
                # All answers before any error: nobody writes to a folder that is being deleted.
                digests = [_value(answer, sender) for sender, answer in answers.items()]
                return checkpoints.commit_shards(folder, step, digests, record, results)
            except BaseException:
                checkpoints.clean_up()
                raise

        answers = {"": _outcome(lambda: shards.write(folder, 0, chunks))}
        end = time.monotonic() + self._timeout
        for rank in range(1, jax.process_count()):
            try:
                answer = values.get(f"written/{rank}", max(1.0, end - time.monotonic()))
            except TimeoutError:
                answer = SaveError(f"no answer within {self._timeout:g} s").packed()
            answers[f"process {rank}: "] = answer
        ended = _outcome(commit)
        values.put("end", ended)
        warning: str | None = _value(ended)
        before.clear()  # all have answered since
        return warning


def check_seen_by_all(directory: Path) -> None:
    """Check on all processes that they see one folder, and may write to it.

    Raises:
        ConfigError: a process does not; it is named.
        SaveError: the storage is full or read-only.
    """
    rank, token = jax.process_index(), collectives.share(lambda: secrets.token_hex(8))[0]
    marks = [directory / f"{WRITING}{token}.{i}" for i in range(jax.process_count())]

    def mark() -> str:
        host = socket.gethostname()
        with writing(directory):
            try:
                marks[rank].mkdir()
            except FileNotFoundError:
                raise ConfigError(f"host {host} does not have {directory}", HINT) from None
        return host

    def look() -> None:
        unseen = [
            f"process {i} (host {hosts[i]})" for i, path in enumerate(marks) if not path.is_dir()
        ]
        if rank == 0 and unseen:
            message = f"{directory} is another folder for {', '.join(unseen)} than for process 0"
            raise ConfigError(message, HINT)

    try:
        hosts = collectives.share(mark)
        collectives.share(look)
    finally:
        with suppress(OSError):
            marks[rank].rmdir()


def _outcome(make: Callable[[], Json]) -> Json:
    """Return what `make` returns, or the error that it raises, as another process can get it."""
    try:
        return {"value": make()}
    except Exception as error:
        if not isinstance(error, TrainerError):
            error = SaveError(first_line(error))
        return error.packed()


def _value(outcome: Json, sender: str = "") -> Json:
    """Return what is in an outcome, or raise its error; its message begins with `sender`."""
    if "kind" in outcome:
        raise TrainerError.unpacked(outcome, sender)
    return outcome["value"]
