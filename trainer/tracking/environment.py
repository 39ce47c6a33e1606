"""environment.json: code, versions, machine and command of a start, without secrets."""

import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import trainer
from trainer.config.redact import redact

_PACKAGES = (
    *("python", "trainer", "jax", "jaxlib", "numpy", "orbax-checkpoint", "grain", "hydra-core"),
    "tensorboardX",
)
# Chosen by name: an environment is full of secrets.
_VARIABLES = re.compile(
    r"JAX_\w+|XLA_FLAGS|XLA_PYTHON_CLIENT_\w+|LIBTPU_INIT_ARGS|NCCL_\w+|CUDA_VISIBLE_DEVICES"
    r"|OMP_NUM_THREADS|JOB_COMPLETION_INDEX"
    r"|SLURM_(JOB_ID|JOB_NAME|JOB_NODELIST|NNODES|NTASKS|NODEID|PROCID|LOCALID|RESTART_COUNT)"
)


SHAPE = {"started?": datetime, "versions?": {"*": (str, None)}, "git?": ({"revision?": str}, None)}


def collect(devices: Sequence[str], processes: int) -> dict[str, Any]:
    """Return the facts as JSON: `devices` has the kind of each device of the mesh, in order."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": [redact(argument) for argument in sys.orig_argv],
        "git": _git(Path(__file__).resolve().parents[2]),
        "versions": {**versions(_PACKAGES), "trainer's source": source()[:16]},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpu": {
            "model": model[1] if model else platform.processor() or None,
            "count": os.cpu_count(),
            "usable": len(os.sched_getaffinity(0)),
        },
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "devices": list(devices),
        "processes": processes,
        "environment": {
            name: redact(f"{name}={value}").partition("=")[2]
            for name, value in sorted(os.environ.items())
            if _VARIABLES.fullmatch(name)
        },
    }


def source() -> str:
    """Return the SHA-256 of the Python files of the package."""
    package = Path(__file__).resolve().parents[1]
    contents = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        contents.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return contents.hexdigest()


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the installed version of each package, and of python; None: not installed."""
    # A checkout does not install the trainer itself.
    known = {"python": platform.python_version(), "trainer": trainer.__version__}
    installed: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(PackageNotFoundError):
            installed[package] = known.get(package) or version(package)
    return installed


def _git(checkout: Path) -> dict[str, Any] | None:
    """Return {"revision", "dirty"}; None outside a checkout, or if git fails.

    Untracked files count as dirty: a module among them may have been used. Without a checkout,
    an image names the revision it was built from in TRAINER_REVISION.
    """
    if not (checkout / ".git").exists():  # a repository around site-packages is not ours
        built = os.environ.get("TRAINER_REVISION")
        revision = (built or "").removesuffix("-dirty")
        return {"revision": revision, "dirty": built != revision} if built else None

    def git(*arguments: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=5).stdout

    with suppress(OSError, subprocess.SubprocessError):
        revision = git("rev-parse", "HEAD").strip()
        return {"revision": revision, "dirty": git("status", "--porcelain") != ""}
    return None
