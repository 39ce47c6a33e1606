"""SHA-256 of the arrays and files of a checkpoint: they reveal flipped bits that orbax misses."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

Record = dict[str, Any]  # JSON


class Damaged(ValueError):
    """A checkpoint is not what was saved; the message names the array or file, in one line."""


def seal(record: Record, state: Any, files: dict[str, str]) -> Record:
    """Add SHA-256 checksums of all arrays of a pytree, of all files, and of the record itself."""
    sealed = {**record, "leaves": _of_leaves(state), "files": files}
    return {**sealed, "sha256": of_json(sealed)}


def check(state: Any, checksums: dict[str, str]) -> None:
    """Raise Damaged if arrays of a pytree differ from those saved, are missing, or too many."""
    if wrong := sorted({path for path, _ in _of_leaves(state).items() ^ checksums.items()}):
        names = f"{wrong[0]} and {len(wrong) - 1} more" if wrong[1:] else wrong[0]
        raise Damaged(f"contents do not match the checksum: array {names}")


def of_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_weights(weights: Any) -> str:
    """Return the SHA-256 over the bytes of all leaves, in tree order."""
    sha256 = hashlib.sha256()
    for leaf in jax.tree.leaves(weights):
        sha256.update(np.ascontiguousarray(leaf).data)
    return sha256.hexdigest()


def _of_leaves(tree: Any) -> dict[str, str]:
    """Return the SHA-256 of dtype, shape and bytes of each leaf by its path, such as `weights/0/1`.

    Named tuples, dicts and lists give the same paths: without a template, orbax restores a tree
    with other containers than those that were saved.
    """
    checksums = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        data = f"{array.dtype}{array.shape}".encode() + array.data
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        checksums[name] = hashlib.sha256(data).hexdigest()
    return checksums
