"""Checks of one host, that need neither a device nor the other processes."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from trainer.config.schema import TrainConfig
from trainer.distributed.topology import Topology
from trainer.doctor.finding import FAILURE, OK, WARNING, Finding
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_CONFIG
from trainer.tracking import environment

PACKAGES = ("python", "jax", "jaxlib", "numpy", "orbax-checkpoint", "grain", "tensorboardX")
ENOUGH_BYTES = 2 << 30
ENOUGH_FILES = 10_000


def versions() -> Finding:
    """Tell the versions of what the trainer stands on."""
    found = environment.versions(PACKAGES)
    told = ", ".join(f"{name} {number}" for name, number in found.items())
    missing = [name for name, number in found.items() if number is None]
    if missing:
        fix = f"install {', '.join(missing)}: scripts/train makes the whole environment"
        return Finding("versions", FAILURE, told, fix)
    return Finding("versions", OK, told)


def topology(found: Topology) -> Finding:
    """Tell how many processes there are, and what said so."""
    told = f"process {found.process_id} of {found.num_processes} ({found.kind}): {found.evidence}"
    return Finding("topology", OK, told)


def own_name(found: Topology) -> Finding:
    """Check that other hosts can reach this one by its own name: collectives listen there."""
    name = socket.gethostname()
    several = len(set(found.hosts)) > 1
    fix = f"give {name} its address in /etc/hosts, or in the name service"
    try:
        ip = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        level = FAILURE if found.num_processes > 1 else WARNING
        return Finding("host name", level, f"{name} is not known: {error.strerror}", fix)
    if ip.startswith("127.") and several:
        told = f"{name} is {ip} here, where other hosts cannot reach it"
        return Finding("host name", FAILURE, told, fix, EXIT_CONFIG)
    return Finding("host name", OK, f"{name} is {ip}")


def proxies(environ: Mapping[str, str]) -> Finding:
    """Tell of proxies; the coordinator is reached past them."""
    names = sorted(name for name in environ if name.lower() in ("http_proxy", "https_proxy"))
    told = f"{', '.join(names)} set: used for downloads only" if names else "none"
    return Finding("proxies", OK, told)


def compilation_cache(train: TrainConfig) -> Finding:
    """Check that the folder of compiled programs, which are trusted, is private and writable."""
    name = "compilation cache"
    if train.compilation_cache_dir is None:
        told = "none: every start compiles anew"
        return Finding(name, WARNING, told, "set train.compilation_cache_dir=DIR")
    folder = expanded(train.compilation_cache_dir, "train.compilation_cache_dir").absolute()
    option = f"train.compilation_cache_dir={folder}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        fix = "choose another folder, or null"
        return Finding(name, FAILURE, f"{option}: {error.strerror}", fix, EXIT_CONFIG)
    if not os.access(folder, os.W_OK):
        told, fix = f"{option} cannot be written", "choose another folder, or null"
        return Finding(name, FAILURE, told, fix, EXIT_CONFIG)
    if mode & 0o022:
        return Finding(name, WARNING, f"{option} can be written by others", f"chmod 700 {folder}")
    return Finding(name, OK, str(folder))


def free_space(folder: Path) -> Finding:
    """Check the room where runs are written; the folder need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    room, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
    told = f"{room / 2**30:.1f} GiB and {inodes.f_favail:,} files free at {folder}"
    few_files = inodes.f_files > 0 and inodes.f_favail < ENOUGH_FILES
    if room < ENOUGH_BYTES or few_files:
        return Finding("free space", WARNING, told, "make room, or choose another run.root")
    return Finding("free space", OK, told)
