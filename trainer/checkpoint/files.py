"""The files of one checkpoint, with checksums that are compared at every read.

Reading changes nothing, so it is safe while another job writes to the same run.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import orbax.checkpoint as ocp

from trainer.checkpoint import checksums, shards
from trainer.checkpoint.checksums import RECORD, Record, reading
from trainer.job import directory as run_directory
from trainer.job.errors import ReadError, first_line
from trainer.job.files import Damaged, parse, read_bytes
from trainer.tasks.task import named_leaves

Arrays = dict[str, npt.NDArray[Any]]  # path -> array

RECORD_FILE = "record.json"  # the record, with the checksums of all arrays and all other files
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def checkpointer() -> ocp.Checkpointer:
    """Return a context manager of orbax that reads and writes arrays in this process alone."""
    # Compression would make a checkpoint an eighth smaller for a third more work.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=ALONE)
    return ocp.Checkpointer(handler, multiprocessing_options=ALONE)


@contextmanager
def plain(folder: Path) -> Iterator[Path]:
    """Yield a path to the folder that orbax does not take for a pattern.

    In `model.hidden_sizes=[16,8]`, the name of a trial, orbax would lose the arrays.
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
    """Return the steps of the committed checkpoints in a folder, oldest first; or ReadError."""
    try:
        return run_directory.steps(directory)
    except OSError as error:
        raise checksums.unreadable(directory, error) from None


def write_record(
    folder: Path, record: Record, state: Any, tables: Sequence[str] | None = None
) -> None:
    """Write the record of a checkpoint whose arrays are written; the caller calls fsync.

    Of a state that orbax has written, it has the SHA-256 of each array and of each file. Of a
    sharded one, `tables` are the SHA-256 that `shards.write` returned to each process.
    """
    if tables is None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in paths]
        digests = {name: checksums.of_file(folder, name) for name in names}
        leaves = {name: checksums.of_array(leaf) for name, leaf in named_leaves(state).items()}
    else:
        digests = {shards.TABLE.format(i): digest for i, digest in enumerate(tables)}
        names = [*digests, *(shards.DATA.format(i) for i in range(len(tables)))]
        record, leaves = {**record, "processes": len(tables)}, {}
    sizes = {name: (folder / name).stat().st_size for name in names}
    sealed = {**record, "bytes": sizes, "leaves": leaves, "files": digests}
    sealed["sha256"] = checksums.of_json(sealed)
    (folder / RECORD_FILE).write_text(json.dumps(sealed), "utf-8")


class Opened(NamedTuple):
    """A checkpoint whose record is intact; its arrays are not read yet."""

    record: Record  # as it was given to write_record
    leaves: dict[str, str]  # SHA-256 of each array, by its path
    files: dict[str, tuple[str, int | None]]  # SHA-256 and bytes of each file, by its name
    chunks: shards.Chunks | None  # of the arrays of a sharded state


def opened(folder: Path, shape: Mapping[str, Any] = RECORD) -> Opened:
    """Read the record of a checkpoint, which has to have that shape, and compare its checksum.

    Of a sharded state, read the tables of the chunks too. Raises Damaged and ReadError as `read`
    does.
    """
    with reading(folder, RECORD_FILE):
        data = read_bytes(folder / RECORD_FILE)
    seal = {"step": int, "sha256": str, "leaves": {"*": str}, "files": {"*": str}}
    seal["bytes?"] = {"*": int}  # of each file; older records have none
    # A result may be NaN, written as JSON has it not.
    record = parse(data, {**shape, **seal}, f"file {RECORD_FILE}", finite=False)
    intact = json.dumps(record).encode() == data  # the same JSON value would not be enough
    if record.pop("sha256") != checksums.of_json(record) or not intact:
        raise Damaged(f"file {RECORD_FILE} does not match its checksum")
    if record["step"] != int(folder.name):
        raise Damaged(f"it was saved as step {record['step']}")
    digests, sizes, leaves = record.pop("files"), record.pop("bytes", {}), record.pop("leaves")
    chunks = None
    if "processes" in record:
        names = [shards.TABLE.format(index) for index in range(len(digests))]
        if len(names) != record["processes"] or {*names} != digests.keys():
            processes = f"{record['processes']} processes"
            raise Damaged(f"file {RECORD_FILE} lists other files than those of {processes}")
        chunks = shards.table(folder, [digests[name] for name in names])
    files = {name: (digest, sizes.get(name)) for name, digest in digests.items()}
    return Opened(record, leaves, files, chunks)


def read(
    reader: ocp.Checkpointer, folder: Path, shape: Mapping[str, Any] = RECORD
) -> tuple[Arrays, Record]:
    """Read a checkpoint and compare every file and every array with its checksum.

    Returns the arrays by their paths, such as `weights/0/kernel`, and the record, of that shape.

    Raises:
        Damaged: the checkpoint is not what was saved; the file or array is named.
        ReadError: the storage fails, or orbax cannot read files that are intact.
    """
    record, leaves, files, chunks = opened(folder, shape)
    if chunks is not None:
        return {leaf: shards.whole(folder, of_leaf) for leaf, of_leaf in chunks.items()}, record
    for name, (expected, size) in files.items():
        if checksums.of_file(folder, name, size) != expected:
            raise Damaged(f"file {name} does not match its checksum")
    try:
        with plain(folder.parent) as parent:
            # Without a template: given one, orbax casts to its dtypes silently.
            arrays = named_leaves(reader.restore(parent / folder.name))
    except Exception as error:  # orbax raises errors of many kinds
        message = f"it cannot be read: {first_line(error, kind=True)}"
        if not folder.exists():  # the job has deleted it in the meantime
            raise Damaged(message) from None
        raise ReadError(
            f"{folder}: all files are intact, but {message}. Nothing is renamed or deleted: repair "
            "the storage, or use the version of orbax-checkpoint that wrote it"
        ) from None
    own = {name: checksums.of_array(array) for name, array in arrays.items()}
    if wrong := sorted({name for name, _ in own.items() ^ leaves.items()}):
        names = f"{wrong[0]} and {len(wrong) - 1} more" if wrong[1:] else wrong[0]
        raise Damaged(f"contents do not match the checksum: array {names}")
    return {name: np.asarray(array) for name, array in arrays.items()}, record


def check(reader: ocp.Checkpointer, folder: Path, shape: Mapping[str, Any] = RECORD) -> Record:
    """Read a checkpoint as `read` does, a chunk at a time if it is sharded; return the record."""
    record, _, _, chunks = opened(folder, shape)
    if chunks is None:
        return read(reader, folder, shape)[1]
    for chunk in chain(*chunks.values()):
        shards.read(folder, chunk)
    return record


def fit(arrays: Mapping[str, Any], template: Any) -> Any:
    """Return the arrays in the structure of a pytree of shapes and dtypes.

    Raises:
        Damaged: an array is missing, or has another shape or dtype.
    """
    leaves = []
    for path, leaf in named_leaves(template).items():
        array = arrays.get(path)
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            given = "is missing" if array is None else f"is {array.dtype}{list(array.shape)}"
            message = f"array {path} {given}, but {leaf.dtype}{list(leaf.shape)} is needed"
            raise Damaged(f"it does not fit the state of this model: {message}")
        leaves.append(array)
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
