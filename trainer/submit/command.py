"""`python -m trainer submit slurm|k8s`: check a job here, then hand it to the scheduler."""

import argparse
import os
import re
from collections.abc import Sequence

from trainer.commands import arguments as command_line
from trainer.config.compose import Job, compose_each
from trainer.distributed import topology
from trainer.job.directory import expanded
from trainer.job.errors import EXIT_COMPLETED, ConfigError
from trainer.job.signals import StopRequest
from trainer.plan import devices
from trainer.submit import kubernetes, size, slurm
from trainer.sweep import plan
from trainer.tracking.terminal import Terminal

DESCRIPTION = """\
Checks a training job on this machine - every option, that the batch divides over the devices that
the job will get, and that it fits into their memory, where --device or --device-memory name it
(`python -m trainer plan` shows more) - and only then hands it to SLURM or Kubernetes.
"""
EPILOG = """\
exit codes:
  0   submitted, or shown
  69  sbatch or kubectl is missing, or refused the job
  74  the output cannot be written
  75  asked to stop
  78  an option of the job or of this command is wrong, or the job does not fit

examples:
  python -m trainer submit slurm --nodes 4 --gpus-per-node 8 --cpus-per-task 32 +experiment=mlp
  python -m trainer submit slurm --nodes 2 --scheduler-option=--time=2:00:00 +experiment=mlp
  python -m trainer submit slurm --at-once 4 -m +experiment=mlp optim.lr=0.02,0.05 run.seed=0,1
  python -m trainer submit slurm --gpus-per-node 8 --device H100 +experiment=mlp
  python -m trainer submit k8s --nodes 2 --gpus-per-node 8 --name first \\
      --image REGISTRY/trainer:0.1.0-cuda12 +experiment=mlp
  python -m trainer submit k8s --nodes 4 --image REGISTRY/trainer:0.1.0 --dry-run +experiment=mlp
"""
KINDS = {"slurm": "slurm", "k8s": "kubernetes"}  # of cluster.kind
ONLY = {  # options that only one of the schedulers has
    "slurm": ("tasks_per_node", "cpus_per_task", "scheduler_option", "multirun", "at_once"),
    "k8s": ("image", "namespace"),
}
# Options of sbatch that would change what `submit` checks and prints.
_CHECKED = re.compile("--(nodes|ntasks|tasks-per|gpus|gres(?!-)|array|chdir)|-[NnGaD]")


def main(arguments: Sequence[str], stop: StopRequest) -> int:
    """Submit a job or a sweep, or show the command."""
    parser = _parser()
    args = command_line.parse(parser, arguments, overrides=True)
    _check_options(args, parser)
    sweep = plan.make(args.overrides) if args.multirun else None
    if sweep and sweep.search:
        hint = "start it without submit, or list the values"
        raise ConfigError(f"{plan.SEARCH}: what a trial is depends on the results before it", hint)
    jobs = sweep.jobs if sweep else compose_each([args.overrides])
    for job in jobs:
        _check_job(job, args)
    if args.scheduler == "slurm":
        slurm.check_environment()
    if not args.no_plan:
        lists = [trial.overrides for trial in sweep.trials] if sweep else [args.overrides]
        size.check(args, jobs, lists, stop)
    if args.scheduler == "k8s":
        kubernetes.submit(args, jobs[0])
        return EXIT_COMPLETED
    for root in {job.config.data.root for job in jobs} - {None}:
        if not expanded(str(root), "data.root").is_dir():
            Terminal().warn(
                f"data.root={root} does not exist here: make sure it exists on the compute nodes"
            )
    slurm.submit(args, jobs[0], sweep)
    return EXIT_COMPLETED


def _check_options(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check the options of this command that depend on each other, and those for sbatch."""
    for scheduler, names in ONLY.items():
        for name in names:
            if scheduler != args.scheduler and getattr(args, name) != parser.get_default(name):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is for {scheduler} only", "leave it out")
    if args.at_once and not args.multirun:
        raise ConfigError(f"--at-once={args.at_once} is for a sweep", "add -m, or leave it out")
    for option in args.scheduler_option:
        if not re.match("--?[A-Za-z]", option):
            hint = "give one option of sbatch, like --scheduler-option=--partition=gpu"
            raise ConfigError(f"--scheduler-option={option}", hint)
        if _CHECKED.match(option):
            message = f"--scheduler-option={option} would change what submit checks"
            hint = "use --nodes, --gpus-per-node, --tasks-per-node, -m or run.root=DIR"
            raise ConfigError(message, hint)


def _check_job(job: Job, args: argparse.Namespace) -> None:
    """Check a job against the processes and devices that it will get."""
    cluster, scheduler = job.config.cluster, args.scheduler
    _, processes, gpus, _ = devices.layout_of(job.config, args)
    kinds = ("auto", KINDS[scheduler], *(("single",) if processes == 1 else ()))
    given = [f"cluster.{n}={v}" for n in topology.OPTIONS if (v := getattr(cluster, n)) is not None]
    if cluster.kind not in kinds:
        given = [f"cluster={cluster.kind}"]
    if given:
        message = f"{given[0]}: {scheduler} will start {processes} processes and number them"
        raise ConfigError(message, "leave it out")
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if scheduler == "slurm" and gpus and platforms.partition(",")[0] == "cpu":
        message = f"JAX_PLATFORMS={platforms}: the job would inherit it and not use its GPUs"
        raise ConfigError(message, "unset it")
    each = f"each process will have {gpus} GPUs"
    if cluster.gpus_per_process not in (None, gpus):
        message = f"cluster.gpus_per_process={cluster.gpus_per_process}: {each} (--gpus-per-node)"
        raise ConfigError(message, "leave it out")


def _parser() -> argparse.ArgumentParser:
    usage = "slurm|k8s [options] +experiment=NAME [OPTION=VALUE ...]"
    parser = command_line.parser("submit", DESCRIPTION, EPILOG, usage)
    add = parser.add_argument
    add("scheduler", choices=("slurm", "k8s"), help="SLURM with sbatch, or Kubernetes with kubectl")
    devices.add_nodes(add)
    devices.add_device(add)
    help_ = "do not compute how much memory the job needs, which takes some seconds"
    add("--no-plan", action="store_true", help=help_)
    help_ = "the name of the job (default: trainer); on Kubernetes the job and the run are called"
    add("--name", help=f"{help_} train-NAME (default: train-TIME)")
    add("--dry-run", action="store_true", help="show what would be submitted")
    command_line.add_overrides(parser)

    add = parser.add_argument_group("SLURM").add_argument
    help_ = "a sweep: a job array whose tasks train one trial each; see `python -m trainer -m -h`"
    add("-m", "--multirun", action="store_true", help=help_)
    one = command_line.at_least(1)
    add("--at-once", type=one, metavar="N", help="tasks that may run together (default: all)")
    devices.add_tasks(add)
    help_ = "processors per task (default: the site's, often 1: ask for some per GPU)"
    add("--cpus-per-task", type=one, metavar="C", help=help_)
    help_ = "another option for sbatch, like --scheduler-option=--partition=gpu; repeatable"
    add("--scheduler-option", action="append", default=[], metavar="OPTION", help=help_)

    add = parser.add_argument_group("Kubernetes").add_argument
    help_ = "the trainer's image in a registry (default: that of scripts/k8s/overlays)"
    add("--image", metavar="IMAGE[:TAG]", help=help_)
    add("--namespace", help="of the job (default: that of the overlay)")
    return parser
