"""`python -m trainer plan`: will a job fit on devices that are not here, and what does it cost?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer.commands import arguments as command_line
from trainer.config.compose import compose_each
from trainer.config.schema import Config
from trainer.job.errors import EXIT_COMPLETED, ConfigError
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show, table
from trainer.plan import devices, shapes
from trainer.plan.devices import Layout, Room, shown
from trainer.plan.scaling import MACHINES
from trainer.tracking.terminal import Terminal

if TYPE_CHECKING:
    from trainer.plan.programs import Counted

DESCRIPTION = """\
Compiles the programs of a job for devices that are not here, simulated by this CPU, and prints what
a device needs of memory, what a step sends between the devices and computes, and how long it takes
by the scaling model (docs/scaling.md). Nothing is trained and nothing is downloaded.

The memory is what XLA plans for a CPU. A GPU's kernels may take other temporary memory, and CUDA,
cuBLAS and NCCL take some hundred MB beside the share that JAX takes for its arrays.
"""
EPILOG = """\
exit codes:
  0   it fits, or the memory of a device is not known
  65  the data are not here: describe an example with --field
  74  the output cannot be written
  75  asked to stop
  78  it does not fit, or an option is wrong

examples:
  python -m trainer plan --nodes 8 --gpus-per-node 8 --device H100 +experiment=mlp
  python -m trainer plan --gpus-per-node 4 --device-memory 40GB +experiment=mlp ema.decay=0.999
  python -m trainer plan --field tokens=uint8[65] model=module model.module=own.py data=module
"""


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Compile, count, print; then check that it fits.

    Raises:
        ConfigError: it does not, or an option is wrong.
        DataError: the data are not here.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    fields = shapes.of_fields(args.field)
    # Before jax starts its devices, which a user's module may do when it is imported.
    most = args.nodes * max(args.gpus_per_node, args.tasks_per_node)
    os.environ["JAX_NUM_CPU_DEVICES"] = str(most)
    os.environ["JAX_PLATFORMS"] = "cpu"
    (job,) = compose_each([args.overrides])
    config, terminal = job.config, Terminal()
    layout = devices.layout_of(config, args)
    if layout.all_devices > most:  # of parallel.devices, on CPUs
        import jax

        jax.config.update("jax_num_cpu_devices", layout.all_devices)
    room = Room(args, layout.gpus, os.environ)
    kind = args.device or ("H100" if layout.gpus else None)
    from trainer.distributed.connect import configure
    from trainer.plan import programs

    configure(config.run, config.train.compilation_cache_dir, terminal.warn)
    poll = partial(stop.check, "before the data were loaded")
    dataset = shapes.dataset_of(config.data, fields, poll, terminal.warn)
    stop.check("before the programs were compiled")
    counted = programs.count(config, dataset, layout, MACHINES[kind] if kind else None)
    if args.json:
        show(to_json(_as_json(counted, layout, kind, room), indent=2))
    else:
        show("\n".join(table([*_rows(counted, layout, kind, room)], (0, 2))))
    _check(config, layout, counted, room)
    return EXIT_COMPLETED


def _check(config: Config, layout: Layout, counted: Counted, room: Room) -> None:
    """Check that a device has the memory that the job needs.

    Raises:
        ConfigError: it has less; the message says what to change.
    """
    needed = counted.memory.total
    if room.bytes is None or needed <= room.bytes:
        return
    message = f"each device needs {shown(needed)}, and has {room.text}"
    *others, last = _advice(config, layout, counted, room.bytes)
    raise ConfigError(message, f"use {', '.join(others)}, or {last}" if others else f"use {last}")


def _advice(config: Config, layout: Layout, counted: Counted, room: float) -> list[str]:
    """Return what needs less memory, that which helps most first."""
    memory, train, shared = counted.memory, config.train, config.parallel.shard_state
    state, batch = list[str](), list[str]()
    shareable = counted.shareable and config.parallel.method != "pmap"
    if layout.all_devices > 1 and shared != "all" and shareable:
        more = "all" if shared == "optimizer" else "optimizer or all"
        state.append(f"parallel.shard_state={more}")
    if memory.evaluation > memory.temporary:
        batch.append(f"a train.eval_batch_size below {train.eval_batch_size}")
    parts = config.parallel.virtual_shards or layout.all_devices
    if train.global_batch_size > parts * train.accumulate:
        batch.append(f"train.accumulate={2 * train.accumulate}")
    if config.model.remat is None and config.model.precision != "bfloat16":
        batch.append("model.remat=2")
    if counted.rows > 1:
        batch.append(f"a train.global_batch_size below {train.global_batch_size}")
    # Whatever the batch, there are gradients as large as the weights, and their sum.
    fixed = memory.state + 2 * memory.weights
    if fixed > room:
        return [*state, "a smaller model", "devices with more memory"]
    first = [*state, *batch] if fixed > memory.total / 2 else [*batch, *state]
    return [*first, "devices with more memory"]


def _parser() -> argparse.ArgumentParser:
    usage = "[options] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("plan", DESCRIPTION, EPILOG, usage)
    devices.add_nodes(parser.add_argument)
    devices.add_tasks(parser.add_argument)
    devices.add_device(parser.add_argument)
    help_ = "a field of an example, like image=uint8[28,28], where the data are not; repeatable"
    parser.add_argument("--field", action="append", default=[], metavar="FIELD", help=help_)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command_line.add_overrides(parser)
    return parser


def _as_json(counted: Counted, layout: Layout, kind: str | None, room: Room) -> dict[str, Any]:
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
            {"kind": kind, "devices": group, "count": count, "bytes": size}
            for kind, group, count, size in counted.traffic.by_kind
        ],
        "operations": counted.operations,
        "device_kind": kind,
        "step_seconds": predicted and {**predicted._asdict(), "total": predicted.seconds},
    }


def _rows(
    counted: Counted, layout: Layout, kind: str | None, room: Room
) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of the table: what, how much, a note."""
    memory, host, predicted = counted.memory, counted.host, counted.predicted
    processes = "1 process" if layout.processes == 1 else f"{layout.processes:,} processes"
    nodes = "1 node" if layout.nodes == 1 else f"{layout.nodes:,} nodes"
    note = f"{processes} on {nodes}, simulated by this CPU"
    yield "devices", f"{layout.all_devices:,}", note
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
        note = "train.steps_per_dispatch=auto, at the start"
        yield "  measuring steps", shown(memory.measuring), note
    elif memory.total == memory.state + memory.initial:
        yield "  drawing the weights", shown(memory.initial), "when there is only the state besides"
    note = f"of {room.text}" if room.text else "name a device, or its memory, to know if it fits"
    yield "  in all", shown(memory.total), note
    yield "  copy for a checkpoint", shown(memory.state), "if there is room, else on the host"
    yield "memory of each process", "", "beside Python, JAX and CUDA"
    yield "  data set", shown(host.data), ""
    yield "  batches", shown(host.batches), "three dispatches"
    yield "  copy for a checkpoint", shown(host.checkpoint), "while it is written"
    yield "", "", ""
    yield "a step sends", shown(counted.traffic.bytes), ""
    for collective, group, count, size in counted.traffic.by_kind:
        yield f"  {collective}", shown(size), f"{count:,} between {group:,} devices"
    yield "a step computes", shown(counted.operations, "FLOP"), "in the products of each device"
    if predicted is not None and kind is not None:
        note = f"predicted; {MACHINES[kind].source}"
        yield f"a step on {kind}s", seconds(predicted.seconds), note
        yield "  computing", seconds(predicted.compute), ""
        yield "  collectives", seconds(predicted.reduce), "that no computation hides"
        yield "  the slowest device", seconds(predicted.straggle), ""
        yield "  waiting for data", seconds(predicted.input), ""


def seconds(value: float) -> str:
    """Return a duration in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} us"
