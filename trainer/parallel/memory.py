"""How much memory this process takes, of the host and of its devices."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import jax

MIB = 2**20


def host_mib() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def room_for(size: int, statistics: Mapping[str, int] | None) -> bool:
    """Return whether a device has `size` bytes to spare, beside the most that it has needed so far.

    Args:
        size: bytes.
        statistics: what device.memory_stats() returns; None: it does not count, and has the room.
    """
    if not statistics or not {"bytes_limit", "peak_bytes_in_use"} <= statistics.keys():
        return True
    return statistics["peak_bytes_in_use"] + size <= statistics["bytes_limit"]


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
