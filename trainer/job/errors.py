"""The errors a user can cause, each with the exit code that schedulers act on (BSD sysexits)."""

from __future__ import annotations

import errno
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
    everywhere: bool = False  # all processes of the run raise it together: see cluster.share

    def __init__(self, told: str, fix: str = "") -> None:
        """Make the message of two parts, for those who show them apart.

        Args:
            told: names the option or file, the value and the rule.
            fix: what to do about it, in a line or several; empty where `told` says that too.
        """
        between = "\n" if "\n" in fix else ": "
        super().__init__(f"{told}{between}{fix}" if fix else told)
        self.told, self.fix = told, fix

    @classmethod
    def name(cls) -> str:
        """Return the name of the kind of error, for other processes: one of those below."""
        return next((kind.__name__ for kind in cls.__mro__ if TrainerError in kind.__bases__), "")

    @classmethod
    def named(cls, name: str) -> type[TrainerError]:
        """Return the kind of error of this name."""
        kinds = {kind.__name__: kind for kind in cls.__subclasses__()}
        return kinds.get(name, TrainerError)


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

    exit_code = EXIT_RETRY


class NonFinite(TrainerError):
    """A loss or gradient was not finite; the state before it is saved."""

    exit_code = EXIT_NONFINITE


class SaveError(TrainerError):
    """Checkpoints cannot be written any more."""

    exit_code = EXIT_SAVE


class ReadError(TrainerError):
    """A checkpoint is there, and the storage does not let it be read."""

    exit_code = EXIT_SAVE


class PeerLost(TrainerError):
    """Another process of the run has died or hangs; what was saved last is there."""

    exit_code = EXIT_RETRY


def first_line(error: Exception, *, kind: bool = False) -> str:
    """Return the first line of what an error says; with `kind`, behind the name of its class.

    One that says nothing has that name alone.
    """
    name = type(error).__name__
    told = f"{name}: {error}".rstrip(": ") if kind else str(error) or name
    return told.splitlines()[0]


_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


def unwritable(path: Path, error: OSError) -> TrainerError:
    """Return what to raise where a file system does not let the run directory be written.

    Args:
        path: that was to be written, where the error names none.
        error: of the file system.
    """
    told = (
        f"{error.filename2 or error.filename or path} cannot be written ({error.strerror or error})"
    )
    return refused(told, error, "choose another folder with run.dir=DIR or run.root=DIR")


def refused(told: str, error: OSError, elsewhere: str) -> TrainerError:
    """Return what to raise where a file system does not let something be written.

    Args:
        told: what cannot be written, and why.
        error: of the file system.
        elsewhere: the fix where its storage is neither full nor broken: how to name another place.
    """
    if error.errno in _STORAGE:
        return SaveError(told, "mend the storage or make room, then run the same command again")
    return ConfigError(told, elsewhere)
