"""One job per run directory: a lock that the kernel drops when its holder ends."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trainer.job.errors import ConfigError, PeerLost, writing

NAME = "run.lock"
_TRIES = 5  # held() takes the lock too, for an instant
_PAUSE_SECONDS = 0.02
_WAIT_SECONDS = 0.2  # between looks at an earlier attempt
_TURN_SECONDS = 60.0  # a turn takes less than one; a longer one is on a host that was cut off


@contextmanager
def hold(
    directory: Path,
    name: str = NAME,
    what: str = "run directory",
    *,
    shared: bool = False,
    job: str = "",
    give_up: Callable[[str], bool] = lambda _: True,
) -> Iterator[None]:
    """Lock a directory against other jobs while the block runs.

    The kernel drops the lock when the process ends, however it ends, so a dead job blocks nobody.
    A job on a host that was cut off keeps it until it ends or the file system releases the lock.

    Args:
        directory: an existing directory.
        name: of the lock file in it.
        what: how the error calls the directory.
        shared: share the lock with other shared holders.
        job: identifies all attempts of a job that its scheduler restarts; else empty.
        give_up: gets a message while an earlier attempt of this job holds the lock; returns whether
            to stop waiting.

    Raises:
        ConfigError: another job holds it (named), or the file system has no locks.
        SaveError: the storage is full or read-only.
        PeerLost: an earlier attempt of this job has held it for too long.
    """
    path, kind = directory / name, fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with writing(path):
        file = path.open("a+")
    with file:
        try:
            while not any(_take(file, kind) for _ in range(_TRIES)):
                _wait_for_holder(path, f"{what} {directory}", job, give_up)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be locked ({error.strerror})",
                "choose a folder on a file system that has locks, with run.root=DIR",
            ) from None
        with writing(path):
            os.ftruncate(file.fileno(), 0)  # the note of the holder before
            if not shared:
                since = time.strftime("%Y-%m-%d %H:%M:%S %z")
                me = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "job": job}
                os.write(file.fileno(), json.dumps(me).encode())
        yield


def _wait_for_holder(path: Path, what: str, job: str, give_up: Callable[[str], bool]) -> None:
    """Wait a moment if an earlier attempt of this job holds the lock; raise in all other cases."""
    holder = {}
    try:
        holder = json.loads(path.read_text())
        name = f"process {holder['pid']} on host {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):  # shared, or its note is being written
        name = "another job"
    message = f"{what} is in use by {name}"
    if not job or holder.get("job") != job:
        raise ConfigError(message, "wait for its end, or choose another with run.name=NAME")
    message += f", an earlier attempt of {job}"
    if give_up(message):
        raise PeerLost(message, "end it, or run the same command again")
    time.sleep(_WAIT_SECONDS)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock on a file, which is made if missing; after a minute, OSError."""
    with path.open("a") as file:
        deadline = time.monotonic() + _TURN_SECONDS
        while not _take(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                message = f"another process has held {path.name} for {_TURN_SECONDS:g} s"
                raise TimeoutError(errno.ETIMEDOUT, message, str(path))
        yield


def held(directory: Path, name: str = NAME) -> bool:
    """Return whether a job holds the lock of a directory now; writes nothing."""
    try:
        with (directory / name).open("rb") as file:
            return not _take(file, fcntl.LOCK_SH, pause=0)  # dropped when the file is closed
    except OSError:  # missing, or not readable for us
        return False


def _take(file: IO[Any], kind: int, pause: float = _PAUSE_SECONDS) -> bool:
    """Try to lock an open file; pause after a failure."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(pause)
        return False
    return True
