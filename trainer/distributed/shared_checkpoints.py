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

    def save(
        self,
        step: int,
        chunks: Chunks,
        record: Record,
        results: Results,
        flush: Callable[[], None] = lambda: None,
    ) -> str | None:
        """Write a checkpoint with all other processes, each its own chunks; see Checkpoints.save.

        What process 0 returns or raises, all do.

        Args:
            step: optimizer steps done.
            chunks: what `shards.own` returned, of all devices; it is emptied.
            record: that of process 0 is kept with the arrays.
            results: those of process 0 are kept too.
            flush: process 0 calls it first. If it raises, the save has failed.

        Raises:
            ConfigError: the lock of the run was removed.
            SaveError: a process cannot write; it is named.
            TimeoutError: process 0 does not answer.
        """
        number = next(_NUMBERS)
        values = KeyValues(f"trainer/save/{number}/{step}/")  # no other step can get into a folder
        if self._checkpoints is None:
            return self._follow(values, chunks)

        checkpoints = self._checkpoints

        def begin() -> str | None:
            flush()
            folder = checkpoints.begin_shards(step)
            return None if folder is None else folder.name

        begun = _outcome(begin)
        values.put("folder", begun)
        if (name := _value(begun)) is None:
            return None
        answers = self._answers(values, self.directory / name, chunks)

        def commit() -> str | None:
            try:
                digests = [_value(answer, sender) for sender, answer in answers.items()]
                folder = self.directory / name
                return checkpoints.commit_shards(folder, step, digests, record, results)
            except BaseException:
                checkpoints.clean_up()
                raise

        ended = _outcome(commit)
        values.put("end", ended)
        warning: str | None = _value(ended)
        KeyValues(f"trainer/save/{number - 1}/").clear()  # all have answered since
        return warning

    def _follow(self, values: KeyValues, chunks: Chunks) -> str | None:
        """Write the own chunks where process 0 says, and return what it returns."""
        name, rank = _value(values.get("folder", self._timeout)), jax.process_index()
        if name is None:
            return None
        written = _outcome(lambda: shards.write(self.directory / name, rank, chunks))
        values.put(f"written/{rank}", written)
        # Process 0 may wait for others until this time, and then has to commit.
        warning: str | None = _value(values.get("end", 2 * self._timeout))
        return warning

    def _answers(self, values: KeyValues, folder: Path, chunks: Chunks) -> dict[str, Json]:
        """As process 0, write the own chunks; return all processes' outcomes, by who they are.

        All of them, also after an error: nobody writes to a folder that is being deleted.
        """
        answers = {"": _outcome(lambda: shards.write(folder, 0, chunks))}
        end = time.monotonic() + self._timeout
        for rank in range(1, jax.process_count()):
            try:
                answer = values.get(f"written/{rank}", max(1.0, end - time.monotonic()))
            except TimeoutError:
                answer = SaveError(f"no answer within {self._timeout:g} s").packed()
            answers[f"process {rank}: "] = answer
        return answers


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
