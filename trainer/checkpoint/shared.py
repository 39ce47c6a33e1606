"""Checkpoints of a sharded state: all processes write their chunks to one folder.

Process 0 makes the folder, and commits it once all have brought their chunks to disk. They tell
each other so by named values, from the threads that write, while training continues.
"""

import secrets
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import jax

from trainer.checkpoint import shards
from trainer.checkpoint.checksums import Record
from trainer.checkpoint.store import Checkpoints
from trainer.job.directory import WRITING
from trainer.job.errors import ConfigError, SaveError, TrainerError, first_line, writing

Json = Any
Chunks = dict[shards.Place, Any]

_NUMBERS = count(1)  # of the saves of this job, the same on all processes
HINT = (
    "all processes write and read the checkpoints of a sharded state: use a folder that all hosts "
    "share (run.root, run.dir)"
)


class Values(Protocol):
    """What the processes leave for each other: see distributed.collectives.KeyValues."""

    def put(self, name: str, value: Json) -> None:
        """Set a value, for all processes."""

    def get(self, name: str, seconds: float) -> Json:
        """Wait for a value and return it; or TimeoutError."""

    def clear(self) -> None:
        """Delete all values."""


class SharedCheckpoints:
    """One process's part in writing the checkpoints of a run; all save the same steps in turn."""

    def __init__(
        self,
        directory: Path,
        checkpoints: Checkpoints | None,
        values: Callable[[str], Values],
        timeout_seconds: float,
    ) -> None:
        """Get ready to save.

        Args:
            directory: the folder of the checkpoints, which all processes see.
            checkpoints: of the run, on process 0; None on all others.
            values: what begins their names -> values of all processes.
            timeout_seconds: how much longer than another process each may take.
        """
        self.directory = directory
        self._checkpoints, self._values = checkpoints, values
        self._timeout = timeout_seconds

    def save(
        self,
        step: int,
        chunks: Chunks,
        record: Record,
        results: Mapping[str, float] | None,
        flush: Callable[[], None],
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
        number, rank, chief = next(_NUMBERS), jax.process_index(), self._checkpoints
        # With the step: processes that do not save the same one must not share a folder.
        values = self._values(f"trainer/save/{number}/{step}/")

        def decided(name: str, decide: Callable[[Checkpoints], str | None], wait: float) -> Any:
            """Return what process 0 decides, or raise its error, on all processes."""
            if chief is None:
                return _value(values.get(name, wait))
            outcome = _outcome(lambda: decide(chief))
            values.put(name, outcome)
            return _value(outcome)

        def begin(checkpoints: Checkpoints) -> str | None:
            flush()
            folder = checkpoints.begin_shards(step)
            return None if folder is None else folder.name

        if (name := decided("folder", begin, self._timeout)) is None:
            return None
        folder = self.directory / name
        written = _outcome(lambda: shards.write(folder, rank, chunks))
        if chief is None:
            values.put(f"written/{rank}", written)

        def commit(checkpoints: Checkpoints) -> str | None:
            try:
                # Wait for all, also after an error: nobody writes to a folder that is deleted.
                answers = {"": written, **self._answers(values)}
                tables = [_value(answer, sender) for sender, answer in answers.items()]
                return checkpoints.commit(folder, step, record, results, tables=tables)
            except BaseException:
                checkpoints.clean_up()
                raise

        # Process 0 may wait for the others for one timeout, and then has to commit.
        warning: str | None = decided("end", commit, 2 * self._timeout)
        if chief is not None:
            self._values(f"trainer/save/{number - 1}/").clear()  # all have answered since
        return warning

    def _answers(self, values: Values) -> dict[str, Json]:
        """Return the outcomes of the other processes' writes, by who they are."""
        answers, end = {}, time.monotonic() + self._timeout
        for rank in range(1, jax.process_count()):
            try:
                answer = values.get(f"written/{rank}", max(1.0, end - time.monotonic()))
            except TimeoutError:
                answer = SaveError(f"no answer within {self._timeout:g} s").packed()
            answers[f"process {rank}: "] = answer
        return answers


def check_seen_by_all(directory: Path, share: Callable[[Callable[[], Json]], list[Json]]) -> None:
    """Check on all processes that they see the folder of process 0, and may write to it.

    `share` is collectives.share.

    Raises:
        ConfigError: a process does not; it is named.
        SaveError: the storage is full or read-only.
    """
    mark = directory / f"{WRITING}{share(lambda: secrets.token_hex(8))[0]}"
    rank, host = jax.process_index(), socket.gethostname()

    def make() -> None:
        with writing(directory):
            if rank == 0:
                mark.mkdir()

    def look() -> None:
        with writing(directory):
            try:
                (mark / str(rank)).mkdir()
            except FileNotFoundError:
                message = f"host {host} does not have {directory} of process 0"
                raise ConfigError(message, HINT) from None

    try:
        share(make)
        share(look)
    finally:
        if rank == 0:
            shutil.rmtree(mark, ignore_errors=True)


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
