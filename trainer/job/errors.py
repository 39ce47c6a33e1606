"""Errors shown without a traceback, each with the exit code that schedulers act on (sysexits)."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EXIT_COMPLETED = 0
EXIT_DATA = 65  # bad data, or no intact checkpoint: never retry
EXIT_UNAVAILABLE = 69  # doctor, submit: something needed is missing or does not answer
EXIT_NONFINITE = 70  # training became non-finite: never retry
EXIT_INTERNAL = 70  # too little memory, or an error of the trainer itself: never retry
EXIT_SAVE = 74  # checkpoints cannot be written or read: mend the storage first
EXIT_RETRY = 75  # preempted and saved, or a peer was lost: run the same command again
EXIT_CONFIG = 78  # bad configuration: never retry


class TrainerError(Exception):
    """An error to show as one readable message, without a traceback."""

    exit_code: int = EXIT_INTERNAL
    label: str = "error"  # what stands before the message
    everywhere: bool = False  # whether all processes of the run raise it: see collectives.share

    def __init__(self, message: str, hint: str = "") -> None:
        """Join a message (option or file, value, rule) and a hint (how to fix it)."""
        separator = "\n" if "\n" in hint else ": "
        super().__init__(f"{message}{separator}{hint}" if hint else message)
        self.message, self.hint = message, hint

    def packed(self) -> dict[str, str]:
        """Return what another process needs to raise this error too: see unpacked()."""
        classes = (c.__name__ for c in type(self).__mro__ if TrainerError in c.__bases__)
        return {"kind": next(classes, ""), "message": self.message, "hint": self.hint}

    @classmethod
    def unpacked(cls, packed: Mapping[str, str], sender: str = "") -> TrainerError:
        """Return the error that another process has packed; its message begins with `sender`."""
        kinds = {kind.__name__: kind for kind in cls.__subclasses__()}
        kind = kinds.get(packed["kind"], TrainerError)
        return kind(sender + packed["message"], packed["hint"])


class ConfigError(TrainerError):
    """An option is misspelt, has the wrong type, or breaks a rule."""

    exit_code = EXIT_CONFIG


class UnavailableError(TrainerError):
    """A program or service that is needed is missing or refuses."""

    exit_code = EXIT_UNAVAILABLE


class DataError(TrainerError):
    """A data file is missing, unreadable or not what it claims to be."""

    exit_code = EXIT_DATA


class Preempted(TrainerError):
    """The run was asked to stop; what was done so far is saved."""

    exit_code, label = EXIT_RETRY, "stopped"


class NonFinite(TrainerError):
    """A loss or gradient was not finite; the state before it is saved."""

    exit_code = EXIT_NONFINITE


class SaveError(TrainerError):
    """Checkpoints cannot be written any more."""

    exit_code = EXIT_SAVE


class ReadError(TrainerError):
    """The storage refuses to read a checkpoint that exists."""

    exit_code = EXIT_SAVE


class PeerLost(TrainerError):
    """Another process of the run has died or hangs; the last checkpoint remains."""

    exit_code = EXIT_RETRY


def first_line(error: Exception, *, kind: bool = False) -> str:
    """Return the first line of an error's text (the name of its class, if it is empty).

    `kind` puts the name of the class before the text.
    """
    name = type(error).__name__
    text = f"{name}: {error}".rstrip(": ") if kind else str(error) or name
    return text.splitlines()[0]


_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


@contextmanager
def writing(
    path: Path, hint: str = "choose another folder with run.dir=DIR or run.root=DIR"
) -> Iterator[None]:
    """Raise one of these errors where the file system refuses what the block does.

    `path` is for the message where the file system names no file; `hint` says how to use another.

    Raises:
        SaveError: the storage is full, read-only or broken.
        ConfigError: anything else, such as missing permissions.
    """
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename or path
        message = f"{name} cannot be written ({error.strerror or error})"
        if error.errno in _STORAGE:
            hint = "make room or repair the storage, then run the same command again"
            raise SaveError(message, hint) from None
        raise ConfigError(message, hint) from None


@contextmanager
def reading(path: Path, hint: str = "correct the path or its permissions") -> Iterator[None]:
    """Raise DataError, with the file and the reason, where the block cannot read a file of data."""
    try:
        yield
    except OSError as error:
        message = f"{error.filename or path}: cannot be read ({error.strerror or error})"
        raise DataError(message, hint) from error
