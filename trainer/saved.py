"""Reads checkpoints that checkpoint.py wrote and tells what is wrong with a damaged one.

Nothing here writes, renames or makes a folder: it may look at a run that another job is writing.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from trainer import digest
from trainer.committed import COMMIT_FILE as COMMIT_FILE
from trainer.committed import steps as steps
from trainer.digest import Damaged, Record

RECORD_FILE = "_CHECKPOINT_METADATA"  # holds the record, as orbax's custom metadata
TREE_FILE = "_METADATA"  # lists the arrays
ASIDE = "bad-"  # begins the name of a damaged checkpoint that restore() met
TRASH = "trash-"  # and this that of one that is being deleted
WRITING = ".orbax-checkpoint-tmp"  # is in the name of one that orbax is writing
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def handler() -> Any:
    """Return what orbax needs to read and write a checkpoint, in this process alone."""
    return ocp.StandardCheckpointHandler(multiprocessing_options=ALONE)


def reader() -> Any:
    """Return what reads checkpoints and cannot write any; a context manager."""
    return ocp.Checkpointer(handler(), multiprocessing_options=ALONE)


def record_of(folder: Path) -> tuple[Record, dict[str, str]]:
    """Return the record of one checkpoint, and the digests of its arrays by path.

    Raises:
        Damaged: it cannot be read, or does not match its own digest, or is of another step.
    """
    try:
        sealed = json.loads((folder / RECORD_FILE).read_text("utf-8"))["custom_metadata"]
        record, digests = digest.unseal(sealed)
    except FileNotFoundError:
        raise Damaged(f"file {RECORD_FILE} is missing") from None
    except Damaged as error:
        raise Damaged(f"file {RECORD_FILE}: {error}") from None
    except Exception as error:  # whatever wrong bytes lead to
        raise Damaged(f"file {RECORD_FILE} is unreadable: {_first_line(error)}") from None
    if record["step"] != int(folder.name):
        raise Damaged(f"file {RECORD_FILE}: it was saved as step {record['step']}")
    return record, digests


def read(reader: ocp.Checkpointer, folder: Path, template: Any = None) -> tuple[Any, Record]:
    """Read one checkpoint and check it against its digests.

    Args:
        reader: what reader() returns, or another made with handler().
        folder: of the checkpoint.
        template: a pytree of numpy arrays of the shapes and dtypes that were saved; None: restore
            dicts and lists as they are found.

    Returns:
        the arrays, a pytree, and the record.

    Raises:
        Exception: Damaged where the record or a digest does not match, what orbax raises otherwise.
    """
    record, digests = record_of(folder)
    state = reader.restore(folder, args=ocp.args.StandardRestore(template))
    digest.check(state, digests)
    return state, record


def explain(folder: Path, error: Exception) -> str:
    """Say in one line what is wrong with a checkpoint that read() failed on.

    It names the array or the file within the folder, as well as the error lets it be told.
    """
    if isinstance(error, Damaged):
        return str(error)
    for name in (TREE_FILE, "manifest.ocdbt"):
        if not (folder / name).exists():
            return f"file {name} is missing"
    told = re.split(r" \[(?:tensorstore_spec|source)", str(error))[0].strip()
    # Tensorstore tells the whole way down to the file, which comes last if it got that far.
    root = re.escape(f"{folder}/")
    if found := re.search(rf'.*{root}([^"\']*[^"\'/:])["\']?:? ?(.*)', told):
        name, why = found.groups()
        if not (folder / name).exists():
            return f"file {name} is missing"
        return f"file {name}: {why or _first_line(error)}"
    if found := re.search(rf'"([^"]+)/[^"/]+" in [^:]*"{root}": (.*)', told):
        array, why = found.groups()
        return f"array {array.replace('.', '/')}: {why}"
    return f"file {TREE_FILE} does not lead to the arrays: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    told = f"{type(error).__name__}: {error}".rstrip(": ")
    return told.splitlines()[0]
