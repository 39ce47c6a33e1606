"""The files of a sharded state: each process writes its chunks, and any process reads them.

A chunk is the part of an array that one device holds. Process P writes `process_P.bin`, the bytes
of its chunks one after the other, and `process_P.json`, which says where each belongs and has its
SHA-256. The record of the checkpoint has the SHA-256 of every `process_P.json`. So a reader can
check each chunk alone, and reads no others than it needs.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from trainer.checkpoint.checksums import bytes_of, reading, wrong_size
from trainer.job.files import Damaged, open_regular, parse, read_bytes, write_bytes
from trainer.tasks.task import named_leaves

Array = npt.NDArray[Any]
Index = tuple[slice, ...]

TABLE, DATA = "process_{}.json", "process_{}.bin"
_SIZES = [range(2**63)]
SHAPE = {  # of a table
    "chunks": [
        {
            **{"leaf": str, "whole": _SIZES, "start": _SIZES, "shape": _SIZES, "dtype": str},
            **{"offset": _SIZES[0], "sha256": str},
        }
    ]
}


class Place(NamedTuple):
    """Where a chunk belongs."""

    leaf: str  # the path of the array
    whole: tuple[int, ...]  # the shape of the array
    start: tuple[int, ...]  # the first index of the chunk in each dimension


class Chunk(NamedTuple):
    """A chunk in a file."""

    place: Place
    shape: tuple[int, ...]
    dtype: Any
    file: str  # its name
    offset: int  # in bytes
    sha256: str

    @property
    def stop(self) -> tuple[int, ...]:
        """The index behind the chunk in each dimension."""
        return tuple(i + n for i, n in zip(self.place.start, self.shape, strict=True))

    @property
    def end(self) -> int:
        """The offset behind it, in bytes."""
        return self.offset + math.prod(self.shape) * int(self.dtype.itemsize)


Chunks = Mapping[str, list[Chunk]]  # of each array, by its path


def own(state: Any) -> dict[jax.Device, dict[Place, jax.Array]]:
    """Return the chunks of a state that this process writes, by the device that holds them.

    Of several devices that hold the same chunk, one writes it: a later one for each further array,
    so that what is replicated is shared out among the processes.
    """
    chunks: dict[jax.Device, dict[Place, jax.Array]] = {}
    for number, (leaf, array) in enumerate(named_leaves(state).items()):
        of_one = array.sharding.shard_shape(array.shape)
        distinct = math.prod(n // m for n, m in zip(array.shape, of_one, strict=True))
        holders = len(array.sharding.device_set) // distinct
        for shard in array.addressable_shards:
            if shard.replica_id == number % holders:
                start = tuple(part.start or 0 for part in shard.index)
                place = Place(leaf, array.shape, start)
                chunks.setdefault(shard.device, {})[place] = shard.data
    return chunks


def write(folder: Path, process: int, chunks: dict[Place, Any]) -> str:
    """Write the chunks of a process, bring them to disk, and return the SHA-256 of their table.

    They are copied to the host, and taken out of `chunks`, one at a time: memory becomes free.
    """
    rows, offset = [], 0
    with (folder / DATA.format(process)).open("xb") as file:
        for place in [*chunks]:
            data = bytes_of(chunk := jax.device_get(chunks.pop(place)))
            file.write(data)
            about = {"shape": chunk.shape, "dtype": str(chunk.dtype), "offset": offset}
            digest = hashlib.sha256(data).hexdigest()
            rows.append({**place._asdict(), **about, "sha256": digest})
            offset += data.nbytes
        file.flush()
        os.fsync(file.fileno())
    text = json.dumps({"chunks": rows}).encode()
    write_bytes(folder / TABLE.format(process), text)
    return hashlib.sha256(text).hexdigest()


def table(folder: Path, digests: Sequence[str]) -> dict[str, list[Chunk]]:
    """Return the chunks that the tables of all processes list: path of an array -> chunks.

    Args:
        folder: of the checkpoint.
        digests: the SHA-256 of each process's table.

    Raises:
        Damaged: a file is missing, is another than was written, or has another size.
        ReadError: the storage fails.
    """
    listed: dict[str, list[Chunk]] = {}
    for process, sha256 in enumerate(digests):
        name, data, size = TABLE.format(process), DATA.format(process), 0
        with reading(folder, name):
            text = read_bytes(folder / name)
        if hashlib.sha256(text).hexdigest() != sha256:
            raise Damaged(f"file {name} does not match its checksum")
        for one in parse(text, SHAPE, f"file {name}")["chunks"]:
            place = Place(one["leaf"], tuple(one["whole"]), tuple(one["start"]))
            dtype = jnp.dtype(one["dtype"])
            chunk = Chunk(place, tuple(one["shape"]), dtype, data, one["offset"], one["sha256"])
            listed.setdefault(place.leaf, []).append(chunk)
            size = chunk.end
        with reading(folder, data):
            there = (folder / data).stat().st_size
        if there != size:
            raise wrong_size(data, there, size)
    for leaf, chunks in listed.items():
        if sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(chunks[0].place.whole):
            raise Damaged(f"array {leaf} is not whole")
    return listed


def shapes(chunks: Chunks) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shape and dtype of each array."""
    return {
        leaf: jax.ShapeDtypeStruct(of_leaf[0].place.whole, of_leaf[0].dtype)
        for leaf, of_leaf in chunks.items()
    }


def read(folder: Path, chunk: Chunk) -> Array:
    """Read a chunk and compare it with its checksum.

    Raises:
        Damaged: it is not what was written.
        ReadError: the storage fails.
    """
    data = np.empty(chunk.end - chunk.offset, np.uint8)
    with reading(folder, chunk.file), open_regular(folder / chunk.file) as file:
        file.seek(chunk.offset)
        size = file.readinto(data.data)
    if size < data.size:
        raise wrong_size(chunk.file, chunk.offset + size, chunk.end)
    if hashlib.sha256(data.data).hexdigest() != chunk.sha256:
        where = f"of array {chunk.place.leaf} at {list(chunk.place.start)}"
        raise Damaged(f"file {chunk.file} does not match its checksum: the chunk {where}")
    return data.view(chunk.dtype).reshape(chunk.shape)


def whole(folder: Path, chunks: list[Chunk]) -> Array:
    """Return an array, read from its chunks; raises as `read` does."""
    return _region(chunks, partial(read, folder), (slice(None),) * len(chunks[0].shape))


def restore(folder: Path, chunks: Chunks, template: Any, shardings: Any) -> Any:
    """Return a state on the devices; reads the chunks that those of this process need, each once.

    Args:
        folder: of the checkpoint.
        chunks: of its arrays.
        template: shapes and dtypes, those of the checkpoint.
        shardings: how each array is to be sharded, now.

    Raises:
        Damaged, ReadError: as `read` does.
    """
    wanted = zip(named_leaves(template).items(), jax.tree.leaves(shardings), strict=True)
    arrays = []
    for (path, leaf), sharding in wanted:
        region = partial(_region, chunks[path], cache(partial(read, folder)))
        array = jax.make_array_from_callback(leaf.shape, sharding, region, leaf.dtype)
        arrays.append(jax.block_until_ready(array))  # or the host would hold all chunks at once
    return jax.tree.unflatten(jax.tree.structure(template), arrays)


def _region(chunks: list[Chunk], read_one: Callable[[Chunk], Array], index: Index) -> Array:
    """Return a region of an array, from the chunks that it overlaps."""
    bounds = [part.indices(n)[:2] for part, n in zip(index, chunks[0].place.whole, strict=True)]
    first, last = (tuple(each) for each in zip(*bounds, strict=True)) if bounds else ((), ())
    region = np.empty([j - i for i, j in bounds], chunks[0].dtype)
    for chunk in chunks:
        start = tuple(map(max, chunk.place.start, first))
        stop = tuple(map(min, chunk.stop, last))
        if any(i >= j for i, j in zip(start, stop, strict=True)):
            continue
        data = read_one(chunk)
        if (chunk.place.start, chunk.stop) == (first, last):
            return data
        region[_within(start, stop, first)] = data[_within(start, stop, chunk.place.start)]
    return region


def _within(start: tuple[int, ...], stop: tuple[int, ...], origin: tuple[int, ...]) -> Index:
    return tuple(slice(i - o, j - o) for i, j, o in zip(start, stop, origin, strict=True))
