"""Checks of one host, which need neither a device nor the other processes."""

import os
import shutil
import socket
from pathlib import Path

from trainer.config.schema import Config
from trainer.distributed.connect import configure
from trainer.distributed.topology import Topology
from trainer.doctor.finding import Concern
from trainer.job.directory import expanded
from trainer.job.errors import ConfigError, UnavailableError
from trainer.tracking import environment

PACKAGES = ("python", "jax", "jaxlib", "numpy", "orbax-checkpoint", "grain", "tensorboardX")
ENOUGH_BYTES = 2 << 30
ENOUGH_FILES = 10_000


def versions() -> str:
    """Show the versions of Python and the packages that the trainer needs."""
    versions = environment.versions(PACKAGES)
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def own_name(topology: Topology) -> str:
    """Check that other hosts can reach this one by its own name: gloo listens there."""
    name = socket.gethostname()
    hint = f"give {name} its address in /etc/hosts, or in the name service"
    try:
        ip = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        kind = UnavailableError if topology.num_processes > 1 else Concern
        raise kind(f"{name} does not resolve: {error.strerror}", hint) from None
    if ip.startswith("127.") and len(set(topology.hosts)) > 1:
        raise ConfigError(f"{name} is {ip} here, where other hosts cannot reach it", hint)
    return f"{name} is {ip}"


def proxies() -> str:
    """Show the proxies; the connection to process 0 bypasses them."""
    names = sorted(name for name in os.environ if name.lower() in ("http_proxy", "https_proxy"))
    return f"{', '.join(names)} set: used for downloads only" if names else "none"


def compilation_cache(config: Config) -> str:
    """Configure jax; check that its folder of compiled programs is private and writable."""
    option = "train.compilation_cache_dir"
    given = config.train.compilation_cache_dir
    configure(config.run, given)
    if given is None:
        raise Concern("none: every start compiles all programs", f"set {option}=DIR")
    folder = expanded(given, option).absolute()
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option}={folder} cannot be written", "choose another, or null")
    if folder.stat().st_mode & 0o022:  # jax runs the programs in it
        raise Concern(f"{option}={folder} can be written by others", f"chmod 700 {folder}")
    return str(folder)


def free_space(folder: Path) -> str:
    """Check the free space where runs are written; the folder need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    free, inodes = shutil.disk_usage(folder).free, os.statvfs(folder)
    message = f"{free / 2**30:.1f} GiB and {inodes.f_favail:,} files free at {folder}"
    few_files = inodes.f_files > 0 and inodes.f_favail < ENOUGH_FILES
    if free < ENOUGH_BYTES or few_files:
        raise Concern(message, "free some space, or choose another run.root")
    return message
