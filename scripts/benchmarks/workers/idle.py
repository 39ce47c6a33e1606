"""How long the device is idle between the dispatches of a run, by the run's own profile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jax.profiler import ProfileData

from benchmarks.workers import LeftOut

Span = tuple[float, float]  # begin and end, nanoseconds

EXECUTION = "ThunkExecutor::Execute (wait for completion)"  # a program, on a CPU


def measure(directory: str) -> dict[str, Any]:
    """Return `share`, idle of the time from the first of the device's work to the last.

    By whole programs, on a CPU: a wait inside one of them does not show.

    Args:
        directory: of the run; train.profile_steps has to be set.
    """
    (path,) = Path(directory).rglob("*.xplane.pb")
    spans = [
        (event.start_ns, event.start_ns + event.duration_ns)
        for plane in ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
        if event.name == EXECUTION
    ]
    if not spans:
        raise LeftOut("the profile shows no work of the device")
    return {"share": idle_share(spans)}


def idle_share(spans: Iterable[Span]) -> float:
    """Return the part of the time, from the first begin to the last end, that no span covers."""
    ordered = sorted(spans)
    first = reached = ordered[0][0]
    idle = 0.0
    for begin, end in ordered:
        idle += max(0.0, begin - reached)
        reached = max(reached, end)
    return idle / (reached - first)
