"""Checks of one host, which need neither a device nor the other processes."""

import os
import shutil
from pathlib import Path

import jax

from trainer.config.schema import Config
from trainer.distributed.connect import configure
from trainer.doctor.finding import Concern
from trainer.tracking import environment

PACKAGES = ("python", "jax", "jaxlib", "numpy", "orbax-checkpoint", "grain", "tensorboardX")
ENOUGH_BYTES = 2 << 30
ENOUGH_FILES = 10_000


def versions() -> str:
    """Show the versions of Python and the packages that the trainer needs."""
    versions = environment.versions(PACKAGES)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def compilation_cache(config: Config) -> str:
    """Configure jax; check that its folder of compiled programs is private and writable."""

    def concern(text: str) -> None:
        raise Concern(text)

    configure(config.run, config.train.compilation_cache_dir, concern)
    if config.train.compilation_cache_dir is None:
        hint = "set train.compilation_cache_dir=DIR"
        raise Concern("none: every start compiles all programs", hint)
    return str(jax.config.values["jax_compilation_cache_dir"])


def free_space(folder: Path) -> str:
    """Check the free space where runs are written; the folder need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    free, files = shutil.disk_usage(folder).free, os.statvfs(folder).f_favail
    message = f"{free / 2**30:.1f} GiB and {files:,} files free at {folder}"
    # Some file systems, such as btrfs, do not count files and report 0.
    if free < ENOUGH_BYTES or 0 < files < ENOUGH_FILES:
        raise Concern(message, "free some space, or choose another run.root")
    return message
