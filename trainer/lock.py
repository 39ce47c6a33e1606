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

from trainer.errors import ConfigError

NAME = "run.lock"


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Hold the run directory against other jobs while the block runs.

    The kernel drops the lock when the process ends, however it ends, so a dead job blocks nobody.

    Args:
        directory: of the run; it has to exist.

    Raises:
        ConfigError: another job holds it; names its host, its process and since when.
    """
    path = directory / NAME
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"run directory {directory} is in use by {_holder(path)}: wait for its end, or "
                "choose another with run.name=NAME"
            ) from None
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": since}, file)
        file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on host {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another job"
