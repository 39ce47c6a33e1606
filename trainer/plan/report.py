"""What `plan` prints: a table for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainer.job.stdout import table
from trainer.plan.fit import Room, shown
from trainer.plan.layout import Layout

if TYPE_CHECKING:
    from trainer.plan.programs import Counted

KINDS = {"H100": "its constants are assumed", "H200": "its constants are measured on one H200"}


def as_json(counted: Counted, layout: Layout, kind: str | None, room: Room) -> dict[str, Any]:
    """Return the plan as JSON; bytes, seconds."""
    memory, predicted = counted.memory, counted.predicted
    return {
        "devices": layout.all_devices,
        "processes": layout.processes,
        "examples_per_device": counted.rows,
        "steps_per_dispatch": counted.steps,
        "device_memory": {**memory._asdict(), "state": memory.state, "total": memory.total},
        "device_memory_there": room.bytes,
        "host_memory": counted.host._asdict(),
        "collectives": [
            {"kind": kind, "devices": devices, "count": count, "bytes": size}
            for kind, devices, count, size in counted.traffic.by_kind
        ],
        "operations": counted.operations,
        "device_kind": kind,
        "step_seconds": predicted and {**predicted._asdict(), "total": predicted.seconds},
    }


def lines(counted: Counted, layout: Layout, kind: str | None, room: Room) -> Iterator[str]:
    """Yield the lines of the table."""
    rows = list(_rows(counted, layout, kind, room))
    return table(rows, (0, 2))


def _rows(
    counted: Counted, layout: Layout, kind: str | None, room: Room
) -> Iterator[tuple[str, str, str]]:
    memory, host, predicted = counted.memory, counted.host, counted.predicted
    where = f"{_some(layout.processes, 'process', 'processes')} on {_some(layout.nodes, 'node')}"
    yield "devices", f"{layout.all_devices:,}", f"{where}, simulated by this CPU"
    yield "examples on each device", f"{counted.rows:,}", "in a step"
    yield "steps in a dispatch", f"{counted.steps:,}", "as given, or about what the run will choose"
    yield "", "", ""
    yield "memory of each device", "", ""
    yield "  weights", shown(memory.weights), ""
    yield "  optimizer state", shown(memory.optimizer), ""
    if memory.average:
        yield "  average of the weights", shown(memory.average), ""
    yield "  batches", shown(memory.batches), "two dispatches"
    yield "  splits to evaluate on", shown(memory.splits), "those that stay on the devices"
    yield "  activations, temporary", shown(memory.temporary), "of a step, gradients included"
    if (more := max(memory.evaluation, memory.norms) - memory.temporary) > 0:
        name = "evaluation" if memory.evaluation > memory.norms else "norms of gradients"
        yield f"  more for {name}", shown(more), "between steps"
    if memory.total == memory.state + memory.measuring:
        yield (
            "  measuring steps",
            shown(memory.measuring),
            "train.steps_per_dispatch=auto, at the start",
        )
    elif memory.total == memory.state + memory.initial:
        yield "  drawing the weights", shown(memory.initial), "when there is only the state besides"
    there = f"of {room.text}" if room.text else "name a device, or its memory, to know if it fits"
    yield "  in all", shown(memory.total), there
    yield "  copy for a checkpoint", shown(memory.state), "if there is room, else on the host"
    yield "memory of each process", "", "beside Python, JAX and CUDA"
    yield "  data set", shown(host.data), ""
    yield "  batches", shown(host.batches), "three dispatches"
    yield "  copy for a checkpoint", shown(host.checkpoint), "while it is written"
    yield "", "", ""
    yield "a step sends", shown(counted.traffic.bytes), ""
    for kind_, devices, count, size in counted.traffic.by_kind:
        yield f"  {kind_}", shown(size), f"{count:,} between {devices:,} devices"
    yield "a step computes", *_operations(counted.operations)
    if predicted is not None and kind is not None:
        yield f"a step on {kind}s", seconds(predicted.seconds), f"predicted; {KINDS[kind]}"
        yield "  computing", seconds(predicted.compute), ""
        yield "  collectives", seconds(predicted.reduce), "that no computation hides"
        yield "  the slowest device", seconds(predicted.straggle), ""
        yield "  waiting for data", seconds(predicted.input), ""


def _operations(count: int) -> tuple[str, str]:
    scale, unit = next(
        ((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if count >= s), (1, "")
    )
    return f"{count / scale:.4g} {unit}FLOP", "in the products of each device"


def _some(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def seconds(value: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale or unit == "us":
            return f"{value / scale:.3g} {unit}"
    raise AssertionError
