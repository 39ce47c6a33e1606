"""Digests of arrays, and records sealed with them: what tells a flipped bit in a checkpoint."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import jax
import numpy as np

Record = dict[str, Any]  # JSON


class Damaged(ValueError):
    """What was read is not what was saved; the message names the array or file, in one line."""


def leaves_of(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their paths, such as `weights/0/1`.

    A path is the same whether its containers are named tuples, dicts, tuples or lists, because a
    tree restored without a template has other containers than the one that was saved.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


class Sealed(NamedTuple):
    """What was given to seal()."""

    record: Record
    leaves: dict[str, str]  # digests of the arrays, by path
    files: dict[str, str]  # of the files, by name


def seal(record: Record, state: Any, files: dict[str, str]) -> Record:
    """Return the record with the digests of files and of all arrays of a pytree, and its own."""
    leaves = {path: _of_array(leaf) for path, leaf in leaves_of(state).items()}
    sealed = {**record, "leaves": leaves, "files": files}
    return {**sealed, "sha256": of_json(sealed)}


def unseal(sealed: Record) -> Sealed:
    """Return what was given to seal().

    Raises:
        Damaged: the record does not match its own digest.
    """
    record = {key: value for key, value in sealed.items() if key != "sha256"}
    if not {"leaves", "files"} <= record.keys():
        raise Damaged("its record of digests is missing")
    if of_json(record) != sealed.get("sha256"):
        raise Damaged("its record does not match the record's own digest")
    leaves, files = record.pop("leaves"), record.pop("files")
    return Sealed(record, leaves, files)


def check(state: Any, digests: dict[str, str]) -> None:
    """Compare a pytree of arrays with the digests of the one that was saved.

    Raises:
        Damaged: arrays differ, are missing or too many; they are named.
    """
    leaves = leaves_of(state)
    if leaves.keys() != digests.keys():
        raise Damaged(f"arrays missing or too many: {_some(leaves.keys() ^ digests.keys())}")
    if wrong := [path for path, leaf in leaves.items() if _of_array(leaf) != digests[path]]:
        raise Damaged(f"contents do not match the digest: array {_some(wrong)}")


def _some(paths: Any) -> str:
    first, *others = sorted(paths)
    return f"{first} and {len(others)} more" if others else first


def _of_array(leaf: Any) -> str:
    array = np.ascontiguousarray(leaf)
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + array.data).hexdigest()


def of_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
