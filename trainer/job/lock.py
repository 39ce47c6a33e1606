"""One job per run directory: a lock that the kernel drops when its holder ends."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from trainer.job.errors import ConfigError, PeerLost, writing
from trainer.job.files import ignoring, open_regular, read_or_empty

NAME = "run.lock"
_PAUSE_SECONDS = 0.1  # between two tries
_GRACE_SECONDS = 0.2  # held() takes the lock too, for an instant
NOTE = {"host": str, "pid": int, "since": str, "job?": str}  # the shape of what a lock file holds
_OWN: dict[Path, os.stat_result] = {}  # each lock file that this process holds


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

    `name` is that of the lock file, `what` is how the errors call the directory. With `shared`,
    other shared holders may have the lock too. `job` identifies all attempts of a job that its
    scheduler restarts: while an earlier one holds the lock, `give_up` gets a message, and returns
    whether to stop waiting.

    Raises:
        ConfigError: another job holds it (named), or the file system has no locks.
        SaveError: the storage is full or read-only.
        PeerLost: an earlier attempt of this job has held it for too long.
    """
    path, grace = directory / name, time.monotonic() + _GRACE_SECONDS
    with ExitStack() as stack:
        with writing(path):
            file = stack.enter_context(open(path, "a+", opener=_open))
            while not _take(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
                if time.monotonic() > grace:
                    _check_holder(path, f"{what} {directory}", job, give_up)
                time.sleep(_PAUSE_SECONDS)
            note, size = b"", os.fstat(file.fileno()).st_size
            if not shared:
                since = time.strftime("%Y-%m-%d %H:%M:%S %z")
                me = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "job": job}
                note = json.dumps(me).encode()
            # In one piece over the note of the holder before: a job that waits reads one or the
            # other. Unbuffered: the disk may be full.
            os.pwrite(file.fileno(), note.ljust(size), 0)
            file.truncate(len(note))
        if not shared:
            _OWN[path.absolute()] = os.fstat(file.fileno())
            stack.callback(_OWN.pop, path.absolute(), None)
        yield


def check(directory: Path, name: str = NAME) -> None:
    """Check that a lock file that this process holds has not been removed or replaced.

    Another job may have locked the file that now has its name.

    Raises:
        ConfigError: it has.
    """
    path, now = (directory / name).absolute(), None
    if (own := _OWN.get(path)) is None:
        return
    with suppress(OSError):
        now = path.stat()
    if now is None or not os.path.samestat(own, now):
        message = f"{path} was removed or replaced while this job ran, so another may be at work"
        hint = (
            "no checkpoint is written any more. Run the same command again, leave that file alone"
        )
        raise ConfigError(message, hint)


def _check_holder(path: Path, what: str, job: str, give_up: Callable[[str], bool]) -> None:
    """Return if an earlier attempt of this job holds the lock; raise in all other cases."""
    name, holder = "another job", read_or_empty(path, NOTE)  # empty: shared, or being written
    if holder:
        name = f"process {holder['pid']} on host {holder['host']} since {holder['since']}"
    message = f"{what} is in use by {name}"
    if not job or holder.get("job") != job:
        raise ConfigError(message, "wait for its end, or choose another with run.name=NAME")
    message += f", an earlier attempt of {job}"
    if give_up(message):
        raise PeerLost(message, "end it, or run the same command again")


@contextmanager
def turn(path: Path, poll: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Wait for an exclusive lock on a file, which is made if missing, and hold it in the block.

    `poll` is called while waiting, and may raise.
    """
    with open(path, "a+", opener=_open) as file:
        while not _take(file, fcntl.LOCK_EX):
            poll()
            time.sleep(_PAUSE_SECONDS)
        yield


def held(directory: Path, name: str = NAME) -> bool:
    """Return whether a job holds the lock of a directory now; writes nothing."""
    path, taken = directory / name, True  # also where it is missing, not readable, or no file
    with ignoring(path), open_regular(path) as file:
        taken = _take(file, fcntl.LOCK_SH)  # dropped when the file is closed
    return not taken


def _open(path: str, flags: int) -> int:
    """Open a lock file, but no link: what it leads to would be overwritten."""
    # Not O_APPEND: a write would not replace the note.
    return os.open(path, (flags & ~os.O_APPEND) | os.O_NOFOLLOW, 0o666)


def _take(file: IO[Any], kind: int) -> bool:
    """Try to lock an open file."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
