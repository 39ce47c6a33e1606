"""One job a run directory: a lock that dies with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from trainer.job.errors import ConfigError, PeerLost, writing

NAME = "run.lock"
_TRIES = 5  # because held() takes the lock as well, for an instant
_PAUSE_SECONDS = 0.02
_WAIT_SECONDS = 0.2  # between looks at an earlier attempt
_TURN_SECONDS = 60.0  # under one as a rule; who keeps it longer is on a host that was cut off


@contextmanager
def hold(
    directory: Path,
    name: str = NAME,
    what: str = "run directory",
    *,
    shared: bool = False,
    job: str = "",
    over: Callable[[str], bool] = lambda _: True,
) -> Iterator[None]:
    """Hold the run directory against other jobs while the block runs.

    The kernel drops the lock when the process ends, however it ends, so a dead job blocks nobody.
    One on a host that was cut off does, until it ends by itself or the file system gives it up.

    Args:
        directory: of the run; it has to exist.
        name: of the file that carries the lock.
        what: the directory is called in the error.
        shared: with others that share it; not with one that holds it alone.
        job: the same in all attempts of a job that its scheduler starts again; or empty.
        over: asked while an earlier attempt of this job holds it, with words that name that one,
            whether the time to wait for its end is over.

    Raises:
        ConfigError: another job holds it; names its host, its process and since when. Or the file
            cannot be locked at all.
        SaveError: the storage is full, or can only be read.
        PeerLost: an earlier attempt of this job holds it for too long.
    """
    path = directory / name

    def wait() -> None:
        holder = _holder(path)
        told = f"{what} {directory} is in use by {_name(holder)}"
        if not job or holder.get("job") != job:
            fix = "wait for its end, or choose another with run.name=NAME"
            raise ConfigError(told, fix)
        if over(f"{told}, an earlier attempt of {job}"):
            fix = "end it, or run the same command again"
            raise PeerLost(f"{told}, an earlier attempt of {job}", fix)
        time.sleep(_WAIT_SECONDS)

    with _locked(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait) as file:
        with _writing(path):
            os.ftruncate(file.fileno(), 0)  # who held it before, and says so
        if not shared:
            since = time.strftime("%Y-%m-%d %H:%M:%S %z")
            me = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "job": job}
            with _writing(path):
                os.write(file.fileno(), json.dumps(me).encode())
        yield


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait for the file at `path`, which is made if need be, and have it alone in the block.

    Raises:
        OSError: it cannot be made or locked, or another has it for a minute.
    """
    with path.open("a") as file:
        deadline = time.monotonic() + _TURN_SECONDS
        while not _take(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                told = f"another process has had {path.name} for {_TURN_SECONDS:g} s"
                raise TimeoutError(errno.ETIMEDOUT, told, str(path))
        yield


def held(directory: Path, name: str = NAME) -> bool:
    """Return whether a job holds the run directory now; writes nothing."""
    try:
        with (directory / name).open("rb") as file:
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


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    with writing(path):
        yield


def _locked(path: Path, kind: int, wait: Callable[[], None]) -> IO[str]:
    """Open and lock a file; `wait` is called while another has it, and raises to give up."""
    with ExitStack() as opened:
        with _writing(path):
            file = opened.enter_context(path.open("a+"))
        try:
            while not any(_take(file, kind) for _ in range(_TRIES)):
                wait()
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be locked ({error.strerror})",
                "choose a folder on a file system that has locks, with run.root=DIR",
            ) from None
        opened.pop_all()  # it stays open
    return file


def _holder(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    try:
        return f"process {holder['pid']} on host {holder['host']} since {holder['since']}"
    except KeyError:
        return "another job"
