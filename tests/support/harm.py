"""Harm to files and disks, for the tests of what is done about it."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def flip_a_bit(path: Path) -> None:
    """Damage a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def largest_file(folder: Path) -> Path:
    """Of a checkpoint: the one with its arrays."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as if the disk was full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def own_disk(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system of its own on a folder, or skip the test."""
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this sandbox does not let root mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
