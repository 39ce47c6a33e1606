"""How much memory this process uses, on the host and on its devices."""

import os
from collections.abc import Sequence
from pathlib import Path

import jax

MIB = 2**20


def host_mib() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def room_for(arrays: Sequence[jax.Array]) -> bool:
    """Return whether the device that holds some arrays has room for a copy, on top of its peak use.

    A CPU keeps no statistics: there is always room.
    """
    (device,) = arrays[0].devices()
    statistics = device.memory_stats() or {}
    if not {"bytes_limit", "peak_bytes_in_use"} <= statistics.keys():
        return True
    size = sum(array.nbytes for array in arrays)
    return bool(statistics["peak_bytes_in_use"] + size <= statistics["bytes_limit"])


def device_mib() -> dict[str, float]:
    """Return memory of the fullest local device in MiB: now in use, and its peak.

    Empty where the devices keep no statistics: on CPUs.
    """
    all_stats = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    keys = {"device": "bytes_in_use", "device_peak": "peak_bytes_in_use"}
    return {
        name: max(stats[key] for stats in all_stats) / MIB
        for name, key in keys.items()
        if all_stats and all(key in stats for stats in all_stats)
    }
