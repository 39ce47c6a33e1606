"""The GPUs of this host that a process may use, without asking jax for them."""

import re
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

CUDA_VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names; None if it is not set: all are visible.

    CUDA ends the list at the first entry that is not a GPU. So an empty value, -1 and SLURM's
    NoDevFiles all stand for no GPU.
    """
    text = environ.get(CUDA_VISIBLE)
    if text is None:
        return None
    names = (name.strip() for name in text.split(","))
    return tuple(takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, names))


def installed(devices: Path = Path("/dev")) -> tuple[str, ...]:
    """Return the numbers of the GPUs in this host, or in this container.

    CUDA counts from 0 those that are there: a container may have /dev/nvidia3 alone.
    """
    count = len(list(devices.glob("nvidia[0-9]*")))
    return tuple(map(str, range(count)))


def usable(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that a process with these variables would train on; () if on the CPU."""
    if environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return ()
    shown = visible(environ)
    return installed() if shown is None else shown
