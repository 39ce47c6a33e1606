"""`python -m trainer plan`: will a job fit on devices that are not here, and what does it cost?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from trainer.commands import arguments as command_line
from trainer.config.compose import compose_each
from trainer.job.errors import EXIT_COMPLETED
from trainer.job.files import to_json
from trainer.job.signals import StopRequest
from trainer.job.stdout import show
from trainer.plan import fit, layout, report, shapes
from trainer.plan.scaling import MACHINES
from trainer.tracking.terminal import Terminal

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
    target = layout.layout_of(config, args)
    if target.all_devices > most:  # of parallel.devices, on CPUs
        import jax

        jax.config.update("jax_num_cpu_devices", target.all_devices)
    room = fit.Room(args, target.gpus, os.environ)
    kind = args.device or ("H100" if target.gpus else None)
    from trainer.distributed.connect import configure
    from trainer.plan import programs

    configure(config.run, config.train.compilation_cache_dir, terminal.warn)

    def poll() -> None:
        stop.check("before the data were loaded")

    dataset = shapes.dataset_of(config.data, fields, poll, terminal.warn)
    stop.check("before the programs were compiled")
    counted = programs.count(config, dataset, target, MACHINES[kind] if kind else None)
    if args.json:
        show(to_json(report.as_json(counted, target, kind, room), indent=2))
    else:
        show("\n".join(report.lines(counted, target, kind, room)))
    fit.check(config, target, counted, room)
    return EXIT_COMPLETED


def _parser() -> argparse.ArgumentParser:
    usage = "[options] [+experiment=NAME] [OPTION=VALUE ...]"
    parser = command_line.parser("plan", DESCRIPTION, EPILOG, usage)
    layout.add_nodes(parser.add_argument)
    layout.add_tasks(parser.add_argument)
    fit.add_device(parser.add_argument)
    help_ = "a field of an example, like image=uint8[28,28], where the data are not; repeatable"
    parser.add_argument("--field", action="append", default=[], metavar="FIELD", help=help_)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command_line.add_overrides(parser)
    return parser
