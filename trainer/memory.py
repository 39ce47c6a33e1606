"""How much memory this process takes, of the host and of its devices."""

from __future__ import annotations

import os
from pathlib import Path

import jax

MIB = 2**20


def host_mib() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def device_mib() -> dict[str, float]:
    """Return memory of the fullest local device in MiB: now in use, and its peak.

    Empty where the devices do not tell, as CPUs do not.
    """
    stats = [found for device in jax.local_devices() if (found := device.memory_stats())]
    keys = {"device": "bytes_in_use", "device_peak": "peak_bytes_in_use"}
    return {
        name: max(each[key] for each in stats) / MIB
        for name, key in keys.items()
        if stats and all(key in each for each in stats)
    }
