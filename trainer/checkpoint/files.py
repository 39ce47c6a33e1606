"""The files of one checkpoint: sealed when written, checked whenever they are read.

Reading changes nothing: it may look at a run that another job is writing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from trainer.checkpoint import checksums
from trainer.checkpoint.checksums import Damaged, Record, Sealed
from trainer.job import directory as committed
from trainer.job.errors import ReadError, first_line

RECORD_FILE = "record.json"  # the record and the digests of all arrays and all other files
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def checkpointer() -> ocp.Checkpointer:
    """Return what reads and writes the arrays, in this process alone; a context manager.

    Nothing is compressed: that would make a checkpoint an eighth smaller for a third more work, on
    cores that may be training meanwhile.
    """
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=ALONE)
    return ocp.Checkpointer(handler, multiprocessing_options=ALONE)


@contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """Yield another path to a folder where orbax would take its own for a pattern.

    Such as that of a member `model.hidden_sizes=[16,8]`, whose arrays it would lose.
    """
    if not {"[", "\\"} & {*str(folder)}:
        yield folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def steps(directory: Path) -> list[int]:
    """Return the steps that have a committed checkpoint in a folder of them, oldest first.

    Raises:
        ReadError: the folder cannot be read.
    """
    try:
        return committed.steps(directory)
    except OSError as error:
        raise refused(directory, error) from None


def refused(path: Path, error: OSError) -> ReadError:
    """Return the error for a file or folder that is there, but that the storage does not give."""
    return ReadError(
        f"{path} cannot be read ({error.strerror}). That does not make it damaged: nothing is "
        "renamed or deleted. Mend the storage or its permissions, then run the same command again"
    )


def write_record(folder: Path, record: Record, state: Any) -> None:
    """Seal the files of a checkpoint that orbax has written; whoever calls brings them to disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    files = {name: _sha256(folder, name) for name in names}
    (folder / RECORD_FILE).write_text(json.dumps(checksums.seal(record, state, files)), "utf-8")


def record_of(folder: Path) -> Record:
    """Return the record of one checkpoint.

    Raises:
        Damaged: it is missing, or does not match its own digest, or is of another step.
        ReadError: the storage does not give it.
    """
    return _sealed(folder).record


def read(reader: ocp.Checkpointer, folder: Path, template: Any = None) -> tuple[Any, Record]:
    """Read one checkpoint and check every file and every array against its digest.

    Args:
        reader: what checkpointer() returns.
        folder: of the checkpoint.
        template: a pytree of numpy arrays of the shapes and dtypes that were saved; None: restore
            dicts and lists as they are found.

    Returns:
        the arrays, a pytree, and the record.

    Raises:
        Damaged: it is not what was saved; the file or array is named.
        ReadError: the storage does not give it, or orbax cannot read what is as it was written.
    """
    sealed = _sealed(folder)
    for name, wanted in sealed.files.items():
        if _sha256(folder, name) != wanted:
            raise Damaged(f"file {name} does not match its digest")
    try:
        types = None
        if template is not None:
            types = ocp.checkpoint_utils.construct_restore_args(template)
        with plain(folder.parent) as parent:
            args = ocp.args.PyTreeRestore(template, restore_args=types)
            state = reader.restore(parent / folder.name, args=args)
    except Exception as error:  # orbax raises anything
        told = f"it cannot be read: {first_line(error, kind=True)}"
        if not folder.exists():  # retired meanwhile
            raise Damaged(told) from None
        raise ReadError(
            f"{folder}: every file is as it was written, but {told}. Nothing is renamed or "
            "deleted: mend the storage, or use the version of orbax-checkpoint that wrote it"
        ) from None
    checksums.check(state, sealed.leaves)
    return state, sealed.record


def _sealed(folder: Path) -> Sealed:
    text = _text(folder, RECORD_FILE)
    try:
        found = json.loads(text)
        if json.dumps(found) != text:  # it means the same, and is not what was written
            raise Damaged("its text is not what was written")
        sealed = checksums.unseal(found)
    except Damaged as error:
        raise Damaged(f"file {RECORD_FILE}: {error}") from None
    except Exception as error:  # whatever wrong bytes lead to
        told = f"file {RECORD_FILE} is unreadable: {first_line(error, kind=True)}"
        raise Damaged(told) from None
    if sealed.record["step"] != int(folder.name):
        raise Damaged(f"it was saved as step {sealed.record['step']}")
    return sealed


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text("utf-8")
    except _MISSING:
        raise Damaged(f"file {name} is missing") from None
    except OSError as error:
        raise refused(folder / name, error) from None
    except UnicodeDecodeError as error:
        raise Damaged(f"file {name} is unreadable: {error}") from None


def _sha256(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except _MISSING:
        raise Damaged(f"file {name} is missing") from None
    except OSError as error:
        raise refused(folder / name, error) from None
