"""SHA-256 of the arrays and files of a checkpoint: they reveal flipped bits that orbax misses."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np

Record = dict[str, Any]  # JSON


class Damaged(ValueError):
    """A checkpoint is not what was saved; the message names the array or file, in one line."""


class Sealed(NamedTuple):
    """A record and the checksums that were added to it."""

    record: Record
    leaves: dict[str, str]  # path of an array -> checksum
    files: dict[str, str]  # name of a file -> checksum


def leaves_of(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, such as `weights/0/1`.

    Named tuples, dicts, tuples and lists give the same paths: a tree that is restored without a
    template has other containers than the one that was saved.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def seal(record: Record, state: Any, files: dict[str, str]) -> Record:
    """Add SHA-256 checksums of all files, of all arrays of a pytree, and of the record itself."""
    leaves = {path: _of_array(leaf) for path, leaf in leaves_of(state).items()}
    sealed = {**record, "leaves": leaves, "files": files}
    return {**sealed, "sha256": of_json(sealed)}


def unseal(sealed: Record) -> Sealed:
    """Return the parts of a sealed record.

    Raises:
        Damaged: the record does not match its own checksum.
    """
    record = {key: value for key, value in sealed.items() if key != "sha256"}
    if not {"leaves", "files"} <= record.keys():
        raise Damaged("its checksums are missing")
    if of_json(record) != sealed.get("sha256"):
        raise Damaged("it does not match its own checksum")
    leaves, files = record.pop("leaves"), record.pop("files")
    return Sealed(record, leaves, files)


def check(state: Any, checksums: dict[str, str]) -> None:
    """Compare the arrays of a pytree with the checksums of those that were saved.

    Raises:
        Damaged: arrays differ, are missing or too many; they are named.
    """
    leaves = leaves_of(state)
    if leaves.keys() != checksums.keys():
        raise Damaged(f"arrays missing or too many: {_some(leaves.keys() ^ checksums.keys())}")
    if wrong := [path for path, leaf in leaves.items() if _of_array(leaf) != checksums[path]]:
        raise Damaged(f"contents do not match the checksum: array {_some(wrong)}")


def of_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_weights(weights: Any) -> str:
    """Return the SHA-256 over the bytes of all leaves, in tree order."""
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        sha256.update(np.ascontiguousarray(leaf).data)
    return sha256.hexdigest()


def _of_array(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.data).hexdigest()


def _some(paths: Any) -> str:
    first, *others = sorted(paths)
    return f"{first} and {len(others)} more" if others else first
