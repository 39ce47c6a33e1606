"""One job a run directory: a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trainer.errors import ConfigError

NAME = "run.lock"
_TRIES = 5  # because held() takes the lock as well, for an instant
_PAUSE_SECONDS = 0.02


@contextmanager
def hold(
    directory: Path, name: str = NAME, what: str = "run directory", *, shared: bool = False
) -> Iterator[None]:
    """Hold the run directory against other jobs while the block runs.

    The kernel drops the lock when the process ends, however it ends, so a dead job blocks nobody.

    Args:
        directory: of the run; it has to exist.
        name: of the file that carries the lock.
        what: the directory is called in the error.
        shared: with others that share it; not with one that holds it alone.

    Raises:
        ConfigError: another job holds it; names its host, its process and since when.
    """
    path = directory / name
    with path.open("a+") as file:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        if not any(_take(file, kind) for _ in range(_TRIES)):
            raise ConfigError(
                f"{what} {directory} is in use by {_holder(path)}: wait for its end, or "
                "choose another with run.name=NAME"
            )
        if shared:
            yield
            return
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": since}, file)
        file.flush()
        yield


def held(directory: Path) -> bool:
    """Return whether a job holds the run directory now; writes nothing."""
    try:
        with (directory / NAME).open("rb") as file:
            return not _take(file, fcntl.LOCK_SH, pause=0)  # dropped as the file is closed
    except OSError:  # there is none, or not for us to read
        return False


def _take(file: IO[Any], kind: int, pause: float = _PAUSE_SECONDS) -> bool:
    """Try to lock an open file, and wait a little after a failure."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(pause)
        return False
    return True


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on host {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another job"
