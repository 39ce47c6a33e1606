"""The options of `submit`, read and checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from trainer.commands import arguments as command_line
from trainer.job.errors import ConfigError
from trainer.submit import slurm as slurm_job

DESCRIPTION = """\
Checks a training job on this machine - every option, and that the batch divides over the devices
it is to get - and only then hands it to SLURM or Kubernetes.
"""
EPILOG = """\
exit codes:
  0   submitted, or shown
  69  sbatch or kubectl is missing, or refused
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
# Options that only one of the schedulers has, and what they are when left out.
OF_ONE: dict[str, dict[str, object]] = {
    "slurm": {"tasks_per_node": 1, "cpus_per_task": None, "at_once": None, "scheduler_option": []},
    "k8s": {"image": None, "namespace": None},
}


def read(arguments: Sequence[str]) -> argparse.Namespace | None:
    """Return the options, with those of the job in `overrides`; None where --help has answered.

    Raises:
        ConfigError: one is wrong.
    """
    args = command_line.parse(_parser(), arguments, overrides=True)
    if args is None:
        return None
    for scheduler, options in OF_ONE.items():
        for name, left_out in options.items():
            if scheduler != args.scheduler and getattr(args, name) != left_out:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is for {scheduler} only: leave it out")
    if args.multirun and args.scheduler == "k8s":
        raise ConfigError(
            "submit k8s -m: a sweep is a job array, which only SLURM has: submit its members one "
            "by one"
        )
    if args.at_once and not args.multirun:
        raise ConfigError(f"--at-once={args.at_once}: is for a sweep: add -m, or leave it out")
    if args.gpus_per_node % args.tasks_per_node:
        raise ConfigError(
            f"--tasks-per-node={args.tasks_per_node} does not divide "
            f"--gpus-per-node={args.gpus_per_node}: use a divisor"
        )
    slurm_job.check_options(args.scheduler_option)
    return args


def _parser() -> argparse.ArgumentParser:
    usage = "slurm|k8s [options] +experiment=NAME [OPTION=VALUE ...]"
    parser = command_line.parser("submit", DESCRIPTION, EPILOG, usage)
    from_one, from_zero = command_line.at_least(1), command_line.at_least(0)
    parser.add_argument(
        "scheduler", choices=("slurm", "k8s"), help="SLURM, by sbatch; or Kubernetes, by kubectl"
    )
    parser.add_argument(
        "--nodes", type=from_one, default=1, metavar="N", help="number of nodes (default: 1)"
    )
    parser.add_argument(
        "--gpus-per-node",
        type=from_zero,
        default=0,
        metavar="G",
        help="number of GPUs per node (default: 0, which trains on the CPUs)",
    )
    parser.add_argument(
        "--name",
        help="the name of the job (default: trainer); on Kubernetes the job and the run are called "
        "train-NAME (default: train-TIME)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted")
    command_line.add_overrides(parser)
    slurm = parser.add_argument_group("SLURM")
    slurm.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a sweep, as a job array of which each task trains a member; see "
        "`python -m trainer -m --help`",
    )
    slurm.add_argument(
        "--at-once",
        type=from_one,
        metavar="N",
        help="how many tasks of the array may run at the same time (default: no limit)",
    )
    slurm.add_argument(
        "--tasks-per-node",
        type=from_one,
        default=1,
        metavar="T",
        help="processes per node, which share its GPUs (default: 1, which drives them all)",
    )
    slurm.add_argument(
        "--cpus-per-task",
        type=from_one,
        metavar="C",
        help="processors per task (default: the site's, often 1: ask for some per GPU)",
    )
    slurm.add_argument(
        "--scheduler-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more option for sbatch, like --scheduler-option=--partition=gpu; repeatable",
    )
    k8s = parser.add_argument_group("Kubernetes")
    k8s.add_argument(
        "--image",
        metavar="IMAGE[:TAG]",
        help="the trainer's, in a registry (default: that of the overlay in scripts/k8s/overlays)",
    )
    k8s.add_argument("--namespace", help="of the job (default: that of the overlay)")
    return parser
