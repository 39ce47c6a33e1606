"""What a run stands on, for environment.json: code, versions, machine, command. No secrets."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trainer

_PACKAGES = (
    "python",
    "trainer",
    "jax",
    "jaxlib",
    "numpy",
    "orbax-checkpoint",
    "grain",
    "hydra-core",
    "tensorboardX",
)
# Chosen by name: an environment is full of secrets.
_VARIABLES = re.compile(
    r"JAX_\w+|XLA_FLAGS|XLA_PYTHON_CLIENT_\w+|LIBTPU_INIT_ARGS|NCCL_\w+|CUDA_VISIBLE_DEVICES"
    r"|OMP_NUM_THREADS|JOB_COMPLETION_INDEX"
    r"|SLURM_(JOB_ID|JOB_NAME|JOB_NODELIST|NNODES|NTASKS|NODEID|PROCID|LOCALID|RESTART_COUNT)"
)
_SUSPECT = r"[\w.-]*(?:token|secret|passw|credential|signature|key)[\w-]*"
_ASSIGNED_SECRET = re.compile(rf"({_SUSPECT}['\"]?\s*[=:]).*", re.IGNORECASE | re.DOTALL)
_SECRET_OPTION = re.compile(rf"--?{_SUSPECT}", re.IGNORECASE)
_URL_LOGIN = re.compile(r"://[^/\s]+@")
_HIDDEN = "***"


def collect(devices: Sequence[str], processes: int) -> dict[str, Any]:
    """Return the facts as JSON; what cannot be found out is None.

    Args:
        devices: the kind of each device of the mesh, in its order.
        processes: how many take part.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": redact(sys.orig_argv),
        "git": _git(Path(__file__).resolve().parents[2]),
        "versions": {**versions(_PACKAGES), "trainer's source": source("**/*.py")[:16]},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": {
            "model": _cpu_model(),
            "count": os.cpu_count(),
            "usable": len(os.sched_getaffinity(0)),
        },
        "memory_bytes": _memory_bytes(),
        "devices": list(devices),
        "processes": processes,
        "environment": {
            name: _URL_LOGIN.sub(f"://{_HIDDEN}@", value)
            for name, value in sorted(os.environ.items())
            if _VARIABLES.fullmatch(name)
        },
    }


def redact(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the values of whatever is named like a secret hidden.

    That is NAME=VALUE, NAME: VALUE, `--NAME VALUE`, and the login in an address.
    """
    shown = []
    hide = False
    for argument in arguments:
        text = _ASSIGNED_SECRET.sub(rf"\1{_HIDDEN}", argument)
        shown.append(_HIDDEN if hide else _URL_LOGIN.sub(f"://{_HIDDEN}@", text))
        hide = _SECRET_OPTION.fullmatch(argument) is not None
    return shown


def source(*patterns: str) -> str:
    """Return a digest of the trainer's own files: with others the bits may differ.

    Args:
        patterns: which they are, relative to the package.
    """
    package = Path(__file__).resolve().parents[1]
    contents = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in package.glob(pattern)):
        if path.is_file():
            contents.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return contents.hexdigest()


def _git(checkout: Path) -> dict[str, Any] | None:
    """Return {"revision", "dirty"}; None outside a checkout, or where git cannot tell.

    Files that git does not know count as dirty: a module among them may have been used. Where the
    code is no checkout, an image says in TRAINER_REVISION what it was built from.
    """
    if not (checkout / ".git").exists():  # else a repository around site-packages would answer
        told = os.environ.get("TRAINER_REVISION")
        revision = (told or "").removesuffix("-dirty")
        return {"revision": revision, "dirty": told != revision} if told else None
    try:
        status = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch"],
            cwd=checkout,
            env={k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    head = next((line.split()[2] for line in status if line.startswith("# branch.oid ")), None)
    return {
        "revision": None if head == "(initial)" else head,
        "dirty": any(not line.startswith("#") for line in status),
    }


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the installed version of each package, and of python; None: not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    if package == "trainer":  # which a checkout does not install
        return trainer.__version__
    try:
        return platform.python_version() if package == "python" else version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
