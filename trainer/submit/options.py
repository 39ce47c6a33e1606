"""The command line of `submit`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from trainer.commands import arguments as command_line
from trainer.job.errors import ConfigError

DESCRIPTION = """\
Checks a training job on this machine - every option, and that the batch divides over the devices
that the job will get - and only then hands it to SLURM or Kubernetes.
"""
EPILOG = """\
exit codes:
  0   submitted, or shown
  69  sbatch or kubectl is missing, or refused the job
  74  the output cannot be written
  78  an option of the job or of this command is wrong

examples:
  python -m trainer submit slurm --nodes 4 --gpus-per-node 8 --cpus-per-task 32 +experiment=mlp
  python -m trainer submit slurm --nodes 2 --scheduler-option=--time=2:00:00 +experiment=mlp
  python -m trainer submit slurm --at-once 4 -m +experiment=mlp optim.lr=0.02,0.05 run.seed=0,1
  python -m trainer submit k8s --nodes 2 --gpus-per-node 8 --name first \\
      --image REGISTRY/trainer:0.1.0-cuda12 +experiment=mlp
  python -m trainer submit k8s --nodes 4 --image REGISTRY/trainer:0.1.0 --dry-run +experiment=mlp
"""
# Options that only one of the schedulers has, and their defaults.
ONLY: dict[str, dict[str, object]] = {
    "slurm": {"tasks_per_node": 1, "cpus_per_task": None, "at_once": None, "scheduler_option": []},
    "k8s": {"image": None, "namespace": None},
}
# Options of sbatch that would change what `submit` checks and prints.
_CHECKED = re.compile("--(nodes|ntasks|tasks-per|gpus|gres(?!-)|array|chdir)|-[NnGaD]")


def read(arguments: Sequence[str]) -> argparse.Namespace | None:
    """Return the options, with those of the job in `overrides`; None where --help has answered.

    Raises:
        ConfigError: an option is wrong.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    if args is None:
        return None
    for scheduler, options in ONLY.items():
        for name, default in options.items():
            if scheduler != args.scheduler and getattr(args, name) != default:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is for {scheduler} only: leave it out")
    if args.multirun and args.scheduler == "k8s":
        message = "submit k8s -m: a sweep is a job array, which only SLURM has"
        raise ConfigError(message, "submit its trials one by one")
    if args.at_once and not args.multirun:
        raise ConfigError(f"--at-once={args.at_once} is for a sweep: add -m, or leave it out")
    if args.gpus_per_node % args.tasks_per_node:
        raise ConfigError(
            f"--tasks-per-node={args.tasks_per_node} does not divide "
            f"--gpus-per-node={args.gpus_per_node}: use a divisor"
        )
    for option in args.scheduler_option:
        if not re.match("--?[A-Za-z]", option):
            hint = "give one option of sbatch, like --scheduler-option=--partition=gpu"
            raise ConfigError(f"--scheduler-option={option}", hint)
        if _CHECKED.match(option):
            raise ConfigError(
                f"--scheduler-option={option} would change what submit checks",
                "use --nodes, --gpus-per-node, --tasks-per-node, -m or run.root=DIR",
            )
    return args


def _parser() -> argparse.ArgumentParser:
    usage = "slurm|k8s [options] +experiment=NAME [OPTION=VALUE ...]"
    parser = command_line.parser("submit", DESCRIPTION, EPILOG, usage)
    one, zero = command_line.at_least(1), command_line.at_least(0)
    add = parser.add_argument
    add("scheduler", choices=("slurm", "k8s"), help="SLURM with sbatch, or Kubernetes with kubectl")
    add("--nodes", type=one, default=1, metavar="N", help="number of nodes (default: 1)")
    help_ = "number of GPUs per node (default: 0, which trains on the CPUs)"
    add("--gpus-per-node", type=zero, default=0, metavar="G", help=help_)
    help_ = "the name of the job (default: trainer); on Kubernetes the job and the run are called"
    add("--name", help=f"{help_} train-NAME (default: train-TIME)")
    add("--dry-run", action="store_true", help="show what would be submitted")
    command_line.add_overrides(parser)

    add = parser.add_argument_group("SLURM").add_argument
    help_ = "a sweep: a job array whose tasks train one trial each; see `python -m trainer -m -h`"
    add("-m", "--multirun", action="store_true", help=help_)
    help_ = "how many tasks of the array may run at the same time (default: no limit)"
    add("--at-once", type=one, metavar="N", help=help_)
    help_ = "processes per node, which share its GPUs (default: 1, which uses them all)"
    add("--tasks-per-node", type=one, default=1, metavar="T", help=help_)
    help_ = "processors per task (default: the site's, often 1: ask for some per GPU)"
    add("--cpus-per-task", type=one, metavar="C", help=help_)
    help_ = "another option for sbatch, like --scheduler-option=--partition=gpu; repeatable"
    add("--scheduler-option", action="append", default=[], metavar="OPTION", help=help_)

    add = parser.add_argument_group("Kubernetes").add_argument
    help_ = "the trainer's image in a registry (default: that of scripts/k8s/overlays)"
    add("--image", metavar="IMAGE[:TAG]", help=help_)
    add("--namespace", help="of the job (default: that of the overlay)")
    return parser
